"""Under xdist a load shared by several tests runs once, whichever workers they are on, and fails once."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_comfyload.errors import ComfyloadError, LoadStopped, UsageError
from pytest_comfyload.history.store import Store
from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.plugin.xdist import SharedRuns
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import Outcome, OutcomeStatus
from pytest_comfyload.result.run_facts import RunFacts
from tests.plugin.conftest import TIME_SCALE
from tests.plugin.suite import Suite

pytest.importorskip("xdist")


@pytest.fixture(scope="module")
def second() -> Iterator[str]:
    """Yield the URL of another simulator."""
    with SimulatorProcess(time_scale=TIME_SCALE) as process:
        yield process.url


# Each test takes a while, so that the other worker gets some of them.
SHARED_LOAD = """
import os, time

pytestmark = load_scenario("txt2img", users=2, iterations=2, fetch=False, max_send_lag="30s", warmup=0)

@pytest.mark.parametrize("number", range(6))
def test_it(load, number, record_property):
    record_property("process", os.getpid())
    time.sleep(0.2)
    assert load.success_rate == 100
    assert load.total_time.p50 > 0
"""


def test_tests_on_two_workers_look_at_one_run(suite: Suite, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = suite.folder / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    suite.write("test_it.py", SHARED_LOAD)
    suite.listen()
    result = suite.run("-n2", "--dist=load", "--junitxml=it.xml", "--comfyui-url", server)
    result.assert_outcomes(passed=6)
    reports = suite.reports()
    (figures,) = {str(report["runs"]) for report in reports}
    assert "'prompts': 4" in figures
    assert len(list((suite.folder / ".comfyload" / "runs").iterdir())) == 1
    processes = (suite.folder / "it.xml").read_text(encoding="utf-8").split('name="process" value="')[1:]
    assert len({each.partition('"')[0] for each in processes}) == 2
    assert [path for path in temporary.iterdir() if path.is_dir() and path.name.startswith("comfyload-xdist-")] == []


def test_parameters_that_change_the_load_have_runs_of_their_own(suite: Suite, server: str) -> None:
    suite.write(
        "test_it.py",
        """
        @load_scenario("txt2img", inputs={"KSampler.steps": param("steps")}, fetch=False, max_send_lag="30s", warmup=0)
        class TestSteps:
            @pytest.mark.parametrize("steps", [2, 3])
            @pytest.mark.parametrize("number", range(3))
            def test_it(self, load, steps, number):
                (sampler,) = (node for node in load.outcomes[0].nodes if node.class_type == "KSampler")
                assert sampler.steps[-1][1] == steps
        """,
    )
    suite.listen()
    suite.run("-n2", "--comfyui-url", server).assert_outcomes(passed=6)
    assert len({run for runs in suite.run_ids().values() for run in runs}) == 2


def test_without_xdist_nothing_is_shared(suite: Suite, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = suite.folder / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    suite.write("test_it.py", SHARED_LOAD)
    suite.write(
        "conftest.py",
        f"""
        import pathlib

        def pytest_runtest_logfinish():
            assert not list(pathlib.Path({str(temporary)!r}).glob("comfyload-xdist-*"))
        """,
    )
    suite.run("--comfyui-url", server).assert_outcomes(passed=6)


# --- the folder itself ---


def _result() -> LoadResult:
    facts = RunFacts(
        run_id="a", title="a title", scenario="a scenario", workflow="txt2img", servers=("http://a:1",), seed=7,
        epoch=1.5, window=(0.0, 60.0), time_scale=None, intended=1, submitted=1, loop_lag=0.001, max_send_lag=0.1,
        notes=("a note",),
    )  # fmt: skip
    outcome = Outcome(
        prompt_id="p", server="http://a:1", client_id="c", user=0, iteration=0, workflow="txt2img",
        status=OutcomeStatus.TIMEOUT, intended=0.25, error="too long", seeds={"3.seed": 2**63},
    )  # fmt: skip
    return LoadResult(facts, [outcome])


def _never() -> LoadResult:
    raise AssertionError("it has run a second time")


def test_the_second_process_gets_what_the_first_one_measured(tmp_path: Path) -> None:
    first, second = SharedRuns(tmp_path, "gw0"), SharedRuns(tmp_path, "gw1")
    original = first.once("a", _result)
    read = second.once("a", _never)
    assert read.facts == original.facts
    assert read.all_outcomes == original.all_outcomes
    assert read.to_dict() == original.to_dict()
    with pytest.raises(AssertionError, match="second time"):
        second.once("b", _never)


def test_an_error_is_shared_and_a_stop_is_not(tmp_path: Path) -> None:
    def refused() -> LoadResult:
        raise UsageError("no server was named")

    def stopped() -> LoadResult:
        raise LoadStopped("the test run is ending")

    first, second = SharedRuns(tmp_path, "gw0"), SharedRuns(tmp_path, "gw1")
    with pytest.raises(UsageError, match="no server was named"):
        first.once("a", refused)
    with pytest.raises(ComfyloadError, match="no server was named"):
        second.once("a", _never)
    with pytest.raises(LoadStopped):
        first.once("b", stopped)
    assert second.once("b", _result).seed == 7


def test_after_a_stop_nothing_begins(tmp_path: Path) -> None:
    sharing = SharedRuns(tmp_path, "gw0")
    sharing.once("a", _result)
    assert not sharing.stopped()
    SharedRuns(tmp_path, "controller").stop()
    assert sharing.once("a", _never).seed == 7
    with pytest.raises(LoadStopped, match="the test run is ending"):
        sharing.once("b", _never)


def test_what_began_and_has_not_ended_is_known_by_process(tmp_path: Path) -> None:
    controller = SharedRuns(tmp_path, "controller")
    assert not controller.in_use()
    one, two, other = (tmp_path / f"{name}.jsonl" for name in ("one", "two", "other"))
    first, second = SharedRuns(tmp_path, "gw1"), SharedRuns(tmp_path, "gw10")
    first.begins(one)
    first.begins(two)
    second.begins(other)
    first.ends(one)
    assert controller.in_use()
    assert controller.unfinished("gw1") == [two]
    assert sorted(controller.unfinished()) == [other, two]


def test_the_folder_is_the_controllers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sharing = SharedRuns.begin()
    assert sharing.folder.parent == tmp_path
    sharing.stop()
    sharing.remove()
    assert [path for path in tmp_path.glob("comfyload-*") if not path.name.endswith("-locks")] == []


BEGINS = """
from pytest_comfyload.plugin.xdist import SharedRuns

sharing = SharedRuns.begin()
print(sharing.folder, flush=True)
input()
"""


def test_what_killed_sessions_left_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with _session() as killed, _session() as alive:
        folders = [_folder_of(each) for each in (killed, alive)]
        (folders[0] / "result").touch()
        killed.kill()
        killed.wait()
        SharedRuns.begin().remove()
        assert [folder.exists() for folder in folders] == [False, True]
        alive.communicate("\n")
    SharedRuns.begin().remove()
    assert [*tmp_path.glob("comfyload-xdist-*"), *tmp_path.glob("comfyload-*-locks/*")] == []


def _session() -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", BEGINS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _folder_of(session: subprocess.Popen[str]) -> Path:
    assert session.stdout
    return Path(session.stdout.readline().strip())


# --- several servers ---

# Records each load that has finished; one worker crashes, once.
CRASH = """
import os, pathlib

LOAD = dict(servers=1, users=1, iterations=2, fetch=False, max_send_lag="30s", warmup=0)

@pytest.fixture(autouse=True)
def written_down(load):
    with open("ended", "a") as file:
        file.write(load.facts.run_id + "\\n")

@pytest.mark.parametrize("number", range(2))
@load_scenario("txt2img", **LOAD)
def test_before(load, number):
    pass

@load_scenario("txt2img", **LOAD)
def test_crash(load):
    if not pathlib.Path("crashed").exists():
        pathlib.Path("crashed").touch()
        os._exit(1)

@load_scenario("txt2img", **LOAD)
class TestShared:
    def test_one(self, load):
        pass
    def test_two(self, load):
        pass
"""


@pytest.mark.parametrize("mode", ["load", "loadscope", "loadfile", "loadgroup", "worksteal", "each"])
def test_every_load_that_ended_is_in_the_store_whatever_becomes_of_its_worker(
    suite: Suite, server: str, second: str, mode: str
) -> None:
    """Which tests xdist runs after the crash depends on the mode, and is not checked."""
    suite.write("test_a.py", CRASH)
    suite.write("test_b.py", CRASH)
    urls = ("--comfyui-url", server, "--comfyui-url", second)
    result = suite.run("-n2", f"--dist={mode}", "--max-worker-restart=0", "-q", *urls)
    assert "crashed while running" in result.stdout.str()
    ended = set((suite.folder / "ended").read_text(encoding="utf-8").split())
    rows = Store.open(str(suite.folder / ".comfyload")).runs()
    assert sorted(row.run_id for row in rows if row.state == "valid") == sorted(ended)
    assert len({row.test for row in rows}) == len(rows) >= 3


def test_loads_of_one_server_share_the_servers_out_and_are_reported_in_the_order_of_the_tests(
    suite: Suite, server: str, second: str
) -> None:
    """The order is also kept when the first test finishes last."""
    suite.write(
        "test_it.py",
        """
        import time

        @pytest.mark.parametrize("number", range(4))
        @load_scenario("txt2img", servers=1, users=1, iterations=3, fetch=False, max_send_lag="30s", warmup=0)
        def test_it(load, number):
            time.sleep(0 if number else 2)
            assert load.success_rate == 100
        """,
    )
    suite.listen()
    result = suite.run(
        "-n2", "--dist=load", "--comfyui-url", server, "--comfyui-url", second, "--comfyload-markdown=it.md"
    )
    result.assert_outcomes(passed=4)
    summary = (suite.folder / "it.md").read_text(encoding="utf-8")
    places = [summary.index(name) for name in (f"test_it[{number}]" for number in range(4))]
    assert places == sorted(places)
    store = Store.open(str(suite.folder / ".comfyload"))
    loads = [store.load(row) for row in store.runs()]
    by_server = [[load for load in loads if load.facts.servers == (url,)] for url in (server, second)]
    assert [len(each) for each in by_server if each] != [4]
    for each in by_server:
        spans = sorted((load.facts.epoch, load.facts.epoch + load.facts.window[1] / TIME_SCALE) for load in each)
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))
