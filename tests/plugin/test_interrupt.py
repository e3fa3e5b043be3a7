"""Pytest interrupted in the middle of a load: it stops soon, its prompts leave the server, measurements are kept."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from pytest_comfyload.history.record import Record
from pytest_comfyload.history.spool import read_spool
from pytest_comfyload.history.store import Store
from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.workflow.workflow import Workflow
from tests.plugin.suite import Suite

# Every prompt takes at least a second of real time. Two tests, so that a second worker waits for the first one's load.
LONG_LOAD = """
@load_scenario("txt2img", users=3, iterations=5, warmup=0, fetch=False, inputs={"KSampler.steps": 150})
class TestLong:
    def test_one(self, load):
        pass
    def test_two(self, load):
        pass
"""

# The aim is four seconds; the machine may be busy with other work.
SOON = 25.0

_TELL_PIDS = """
import os, pathlib, pytest

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    pathlib.Path(f"{os.getpid()}.worker").touch()
"""


@pytest.fixture
def slow_server() -> Iterator[str]:
    """Yield the URL of a simulator in real time."""
    with SimulatorProcess(time_scale=1, gpu="h100") as process:
        yield process.url


@dataclass
class _Run:
    """A pytest process in a session of its own, as a terminal would start it, in the middle of a load."""

    suite: Suite
    url: str
    child: subprocess.Popen[str]
    theirs: str

    def interrupt(self, number: int) -> None:
        self.child.send_signal(number)

    def interrupt_all(self, number: int) -> None:
        os.killpg(self.child.pid, number)

    def end(self) -> str:
        """Return the output, after checking that the process finished soon."""
        begin = time.monotonic()
        output, _ = self.child.communicate(timeout=40)
        assert time.monotonic() - begin < SOON, output
        return output

    def expect_clean(self) -> None:
        assert _queued(self.url) == [self.theirs]

    def expect_kept(self, output: str) -> None:
        """Check that the store has all prompts, finished or cut off, as an incomplete run that the summary names."""
        run = self.kept()
        statuses = [str(outcome.status) for outcome in run.outcomes]
        ended = len(statuses) - statuses.count("censored")
        assert statuses.count("censored") == 3
        assert ended >= 1
        assert run.state == "incomplete"
        assert f"  interrupted: {ended} of 15 prompts ended; run {run.run_id}" in output.splitlines()

    def kept(self) -> Record:
        store = Store.open(self.suite.folder / ".comfyload")
        (row,) = store.runs()
        return store.load(row)


@contextlib.contextmanager
def _running(suite: Suite, url: str, *arguments: str) -> Iterator[_Run]:
    """Run pytest, ready when one prompt has finished and three are on the server, with a stranger's behind them."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--comfyui-url", url, *arguments]
    child = subprocess.Popen(
        command, cwd=suite.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        _wait_until(lambda: len(_queued(url)) == 3 and _spooled(suite) >= 1)
        yield _Run(suite, url, child, _submit_a_stranger(url))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("whom", ["one", "group"])
def test_a_signal_leaves_the_server_clean(
    suite: Suite, slow_server: str, workers: list[str], number: int, whom: str
) -> None:
    suite.write("test_it.py", LONG_LOAD)
    with _running(suite, slow_server, *workers) as run:
        (run.interrupt if whom == "one" else run.interrupt_all)(number)
        output = run.end()
        run.expect_clean()
    assert run.child.returncode == pytest.ExitCode.INTERRUPTED, output
    assert "KeyboardInterrupt" in output
    assert "INTERNALERROR" not in output
    run.expect_kept(output)


def test_an_impatient_second_ctrl_c_leaves_the_server_clean_too(suite: Suite, slow_server: str) -> None:
    suite.write("test_it.py", LONG_LOAD)
    with _running(suite, slow_server) as run:
        for _ in range(3):
            run.interrupt(signal.SIGINT)
            time.sleep(0.01)
        # If the clean-up was already over, a later signal hit pytest's own shutdown, and there is no summary.
        run.end()
        run.expect_clean()
        assert run.child.returncode != pytest.ExitCode.OK
    spools = list((suite.folder / ".comfyload" / "spool").glob("*.jsonl"))
    outcomes = list(read_spool(spools[0])) if spools else list(run.kept().outcomes)
    assert [str(outcome.status) for outcome in outcomes].count("censored") == 3


def test_a_test_whose_time_runs_out_ends_its_load(suite: Suite, slow_server: str, workers: list[str]) -> None:
    pytest.importorskip("pytest_timeout")
    suite.write("test_it.py", LONG_LOAD)
    with _running(suite, slow_server, *workers, "--timeout=12", "--timeout-method=signal") as run:
        output = run.end()
        run.expect_clean()
    assert run.child.returncode == pytest.ExitCode.TESTS_FAILED
    run.expect_kept(output)
    said = "the load was cut short: Timeout (>12.0s) from pytest-timeout."
    # A second worker's test has waited for this load, and its own timeout has expired.
    assert output.splitlines().count(said) == (1 if workers else 2), output


def test_the_first_failure_ends_the_load_of_another_worker(suite: Suite, slow_server: str) -> None:
    pytest.importorskip("xdist")
    suite.write("test_it.py", LONG_LOAD)
    waiting = "import pathlib, time\n\ndef test_fails():\n    while not pathlib.Path('now').exists():\n"
    suite.write("test_other.py", waiting + "        time.sleep(0.05)\n    assert False\n")
    with _running(suite, slow_server, "-n2", "--dist=loadfile", "-x") as run:
        (suite.folder / "now").touch()
        output = run.end()
        run.expect_clean()
    assert run.child.returncode == pytest.ExitCode.INTERRUPTED
    assert "stopping after 1 failures" in output
    assert "1 failed, 2 skipped in" in output
    run.expect_kept(output)


def test_the_prompts_of_a_killed_worker_are_removed_by_the_controller(suite: Suite, slow_server: str) -> None:
    pytest.importorskip("xdist")
    (suite.folder / "conftest.py").write_text(_TELL_PIDS, encoding="utf-8")
    suite.write("test_it.py", LONG_LOAD.replace("    def test_two(self, load):\n        pass\n", ""))
    with _running(suite, slow_server, "-n2") as run:
        (worker,) = suite.folder.glob("*.worker")
        os.kill(int(worker.stem), signal.SIGKILL)
        output = run.end()
        run.expect_clean()
    assert run.child.returncode == pytest.ExitCode.TESTS_FAILED
    assert re.search(r"^  interrupted: \d of 15 prompts ended; run ", output, re.MULTILINE)
    assert run.kept().state == "incomplete"


def test_before_any_load_sigterm_is_what_it_was(suite: Suite, workers: list[str]) -> None:
    waiting = "import pathlib, time\n\ndef test_it():\n    pathlib.Path('here').touch()\n    time.sleep(60)\n"
    suite.write("test_it.py", waiting)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *workers]
    child = subprocess.Popen(command, cwd=suite.folder, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        _wait_until((suite.folder / "here").exists)
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == -signal.SIGTERM
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _submit_a_stranger(url: str) -> str:
    graph = Workflow.load("txt2img").with_inputs({"KSampler.steps": 1000}).graph
    request = urllib.request.Request(
        f"{url}/prompt", json.dumps({"prompt": graph}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(json.load(answer)["prompt_id"])


def _queued(url: str) -> list[str]:
    """Return the ids of the prompts that the server is running or has queued."""
    with urllib.request.urlopen(f"{url}/queue", timeout=10) as answer:
        queue: dict[str, list[Any]] = json.load(answer)
    return [entry[1] for entry in (*queue["queue_running"], *queue["queue_pending"])]


def _spooled(suite: Suite) -> int:
    return sum(len(list(read_spool(path))) for path in suite.folder.glob(".comfyload/spool/*.jsonl"))


def _wait_until(condition: Callable[[], bool], timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)
