"""`run_load` and `comfyui` by hand, runs that are not judged, and a server that serves one run at a time."""

from __future__ import annotations

import pytest

from pytest_comfyload.history.record import Record
from pytest_comfyload.history.store import Store
from tests.plugin.conftest import TIME_SCALE
from tests.plugin.suite import Suite


def test_run_load_and_comfyui(suite: Suite, server: str) -> None:
    suite.write(
        "test_it.py",
        f"""
        def test_run_load(run_load):
            few = run_load("txt2img", users=2, fetch=False, warmup=0, max_send_lag="30s")
            more = run_load("txt2img", iterations=3, fetch=False, warmup=0, max_send_lag="30s")
            assert (len(few.outcomes), len(more.outcomes)) == (2, 3)
            assert more.success_rate == 100
            assert more.capacity(slo="total_time.p95 < 600").people > 0

        def test_comfyui(comfyui):
            assert comfyui.url == {server!r}
            assert comfyui.urls == ({server!r},)
            assert comfyui.system_stats()["system"]["comfyui_version"]

        def test_submit(comfyui):
            outcome = comfyui.submit("txt2img", inputs={{"EmptyLatentImage.width": 128}})
            assert outcome.succeeded
            assert [file.width for file in outcome.outputs] == [128]

        def test_bad_argument(run_load):
            run_load("txt2img", users=0)
        """,
    )
    suite.listen()
    result = suite.run("--comfyui-url", server)
    result.assert_outcomes(passed=3, failed=1)
    assert result.outlines.count("users=0 is not a whole number of at least 1") == 1
    runs = suite.run_ids()
    assert len(set(runs["test_run_load"])) == 2
    assert list(runs) == ["test_run_load"]


FULLY_CACHED = """
@load_scenario("txt2img", iterations=3, inputs={{"KSampler.seed": 7}}, prompts=["{text}"], vary_text=False, fetch=False,
               max_send_lag="30s"{more})
class TestCached:
    def test_one(self, load):
        assert load.cached == 3
    def test_two(self, load):
        assert load.cached == 3
"""


def test_a_run_out_of_the_cache_is_not_judged(suite: Suite, server: str, workers: list[str]) -> None:
    suite.write("test_it.py", FULLY_CACHED.format(text="refused", more=""))
    result = suite.run(*workers, "--comfyui-url", server)
    result.assert_outcomes(errors=2)
    message = "Not judged: all 3 successful prompts came entirely from the server's cache, "
    assert len([line for line in result.outlines if line.startswith(message)]) == 2
    assert "allow_cached=True" in result.stdout.str()


def test_a_run_out_of_the_cache_may_be_allowed(suite: Suite, server: str) -> None:
    suite.write("test_it.py", FULLY_CACHED.format(text="allowed", more=", allow_cached=True"))
    suite.run("--comfyui-url", server).assert_outcomes(passed=2)


def test_two_workers_load_one_server_one_after_the_other(suite: Suite, server: str) -> None:
    pytest.importorskip("xdist")
    for name in ("one", "two"):
        suite.write(
            f"test_{name}.py",
            f"""
            @load_scenario("txt2img", id="{name}", users=2, iterations=2, fetch=False, warmup=0, max_send_lag="30s")
            def test_{name}(load):
                assert load.success_rate == 100
            """,
        )
    suite.run("-n2", "--dist=loadfile", "--comfyui-url", server).assert_outcomes(passed=2)
    store = Store.open(suite.folder / ".comfyload")
    first, second = sorted(_span(store.load(row)) for row in store.runs())
    assert first[1] <= second[0]


def _span(run: Record) -> tuple[float, float]:
    """Return when a run's first prompt was sent and when its last one finished, in seconds of the wall clock."""
    timelines = [outcome.timeline for outcome in run.outcomes]
    sent = [timeline.sent for timeline in timelines if timeline]
    ended = [timeline.delivered for timeline in timelines if timeline and timeline.delivered]
    assert len(sent) == len(ended) == 4
    return run.time + min(sent) / TIME_SCALE, run.time + max(ended) / TIME_SCALE


BY_HAND = """
from pytest_comfyload.errors import ConnectionRefused

def test_stats(comfyui):
    comfyui.system_stats()

def test_submit(comfyui):
    comfyui.submit("txt2img")

def test_bad_argument(comfyui):
    comfyui.submit("txt2img", users=0)

def test_caught(comfyui):
    with pytest.raises(ConnectionRefused):
        comfyui.submit("txt2img")
"""


def test_an_error_by_hand_is_one_message_and_may_be_caught(suite: Suite) -> None:
    suite.write("test_it.py", BY_HAND)
    result = suite.run("--comfyui-url", "http://127.0.0.1:9")
    result.assert_outcomes(passed=1, failed=3)
    said = [line.partition(": ")[2] for line in result.outlines if line.startswith("E  ")]
    refused = "http://127.0.0.1:9: connection refused; is ComfyUI running there?"
    assert said == [refused, refused, "users=0 is not a whole number of at least 1"]
    assert "/pytest_comfyload/" not in result.stdout.str().replace("\\", "/")


# --- names and scopes ---

OWN = """
@pytest.fixture
def load():
    return 3

def test_own(load):
    assert load == 3

@pytest.mark.parametrize("gpu", [1])
def test_parameter(gpu):
    assert gpu == 1
"""


def test_an_own_fixture_of_the_name_starts_nothing(suite: Suite) -> None:
    suite.write("test_own.py", OWN)
    result = suite.run_here("-v")
    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*= comfyload =*")


def test_an_own_fixture_that_takes_ours_is_one_of_a_load_test(suite: Suite, server: str) -> None:
    body = "@pytest.fixture\ndef load(load):\n    return load\n\n"
    body += '@load_scenario("txt2img", max_send_lag="30s")\ndef test_it(load):\n    assert load.success_rate == 100\n'
    suite.write("test_it.py", body)
    result = suite.run("--comfyui-url", server)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["pass*test_it"])


SHARED = """
from pytest_comfyload import LoadResult

@pytest.fixture(scope="module")
def result(run_load):
    return run_load("txt2img", users=2, iterations=1, warmup=0, max_send_lag="30s")

@pytest.fixture(scope="class")
def comparison(run_ab):
    return run_ab("txt2img", A={}, B={"inputs": {"KSampler.steps": 10}}, pairs=2, max_send_lag="30s")

class TestShared:
    def test_first(self, result):
        assert result.success_rate == 100

    @pytest.mark.parametrize("bound", [90, 99])
    def test_second(self, result, bound):
        assert result.success_rate > bound

    def test_third(self, comparison):
        assert comparison.pairs == 2

    def test_fourth(self, comparison):
        assert comparison.generation_time.ratio < 1e9

def test_another(result):
    assert result.oom_errors == 0
"""


def test_a_fixture_of_a_class_or_module_runs_one_load_for_all_its_tests(suite: Suite, server: str) -> None:
    suite.write("test_shared.py", SHARED)
    suite.listen()
    result = suite.run("--comfyui-url", server)
    result.assert_outcomes(passed=6)
    runs = suite.run_ids()
    assert len(runs["test_first"]) == 1
    assert {*map(tuple, runs.values())} == {tuple(runs["test_first"]), ()}
    assert [name for name in runs if not runs[name]] == ["test_third", "test_fourth"]
    checks = {report["nodeid"].rpartition("::")[2]: len(report["checks"]) for report in suite.reports()}
    assert checks["test_first"] == checks["test_second[90]"] == checks["test_second[99]"] == checks["test_another"] == 1
    rows = Store.open(suite.folder / ".comfyload").runs()
    titles = sorted({row.test for row in rows})
    compared = "test_shared.py::TestShared, comparison"
    assert titles == ["test_shared.py, result", f"{compared}, A", f"{compared}, B"]
    assert len(rows) == 5
