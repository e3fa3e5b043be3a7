"""Ctrl-C in the middle of a load: pytest ends soon, our prompts leave the server, what was measured stays."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_comfyload.history.spool import read_spool
from pytest_comfyload.scenario.workflow import Workflow
from pytest_comfyload.simulator import SimulatorProcess
from tests.plugin.suite import Suite

# Every prompt takes a second or more, of real time.
LONG_LOAD = """
@load_scenario("txt2img", users=3, iterations=2, warmup=0, fetch=False, inputs={"KSampler.steps": 150})
def test_it(load):
    pass
"""


@pytest.fixture
def slow_server() -> Iterator[str]:
    """A simulator in real time."""
    with SimulatorProcess(time_scale=1, gpu="h100") as process:
        yield process.url


def test_ctrl_c_leaves_the_server_clean(suite: Suite, slow_server: str) -> None:
    suite.write("test_it.py", LONG_LOAD)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--comfyui-url", slow_server]
    child = subprocess.Popen(
        command, cwd=suite.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        _wait_until(lambda: len(_queued(slow_server)) == 3 and _spooled(suite) >= 1)
        theirs = _submit_a_stranger(slow_server)
        child.send_signal(signal.SIGINT)
        begin = time.monotonic()
        output, _ = child.communicate(timeout=20)
        took = time.monotonic() - begin
    finally:
        child.kill()
        child.wait()
    assert took < 8
    assert child.returncode == pytest.ExitCode.INTERRUPTED
    assert "KeyboardInterrupt" in output
    assert _queued(slow_server) == [theirs]
    (spool,) = (suite.folder / ".comfyload" / "spool").glob("*.jsonl")
    statuses = [str(outcome.status) for outcome in read_spool(spool)]
    assert statuses.count("censored") == 3
    assert "success" in statuses


def _submit_a_stranger(url: str) -> str:
    graph = Workflow.load("txt2img").with_inputs({"KSampler.steps": 150}).graph
    request = urllib.request.Request(
        f"{url}/prompt", json.dumps({"prompt": graph}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(json.load(answer)["prompt_id"])


def _queued(url: str) -> list[str]:
    """The ids of the prompts that the server runs or holds."""
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
