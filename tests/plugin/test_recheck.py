"""A stored run is judged again by its test as it is now: no load, no server, the same figures and the same table."""

from __future__ import annotations

from typing import Any

import pytest

from tests.plugin.suite import Suite

QUICK = 'fetch=False, max_send_lag="30s", warmup=0'

SUITE = f"""
@load_scenario("txt2img", users=2, {QUICK})
@pytest.mark.parametrize("steps", [1, 2])
def test_parameter(load, steps):
    assert load.total_time.p95 < 0.001

@load_scenario("txt2img", {QUICK}, id="series")
class TestClass:
    def test_one(self, load):
        assert load.success_rate == 100
    def test_two(self, load):
        assert load.node_time["KSampler"].p95 < 0.001
        assert load.regressions() == ()

def test_by_hand(run_load):
    first = run_load("txt2img", {QUICK}, users=2)
    second = run_load("txt2img", {QUICK}, users=3)
    assert (len(first.outcomes), len(second.outcomes)) == (2, 3)
    assert second.throughput > 1e9

def test_server(comfyui):
    assert comfyui.system_stats()
def test_gpu(gpu): pass
def test_ab(run_ab):
    run_ab("txt2img", pairs=1)
def test_capacity(find_capacity):
    find_capacity("txt2img", slo="total_time.p95 < 60")
"""
NOWHERE = ["--comfyui-url", "http://127.0.0.1:9"]
MEASURED = ["-k", "not server and not gpu and not ab and not capacity"]


def test_a_stored_run_is_judged_again(suite: Suite, server: str) -> None:
    pytest.importorskip("xdist")
    suite.listen()
    suite.write("test_it.py", SUITE)
    suite.run("--comfyui-url", server, *MEASURED).assert_outcomes(passed=1, failed=4, deselected=4)
    measured = _forget(suite)
    files = sorted((suite.folder / ".comfyload" / "runs").iterdir())
    suite.run("--comfyload-recheck=latest", "-n2", *MEASURED).assert_outcomes(passed=1, failed=4)
    again = _forget(suite)
    assert again.keys() == measured.keys()
    for nodeid, report in measured.items():
        assert [run["run_id"] for run in again[nodeid]["runs"]] == [run["run_id"] for run in report["runs"]]
        assert again[nodeid]["checks"] == report["checks"]
        assert again[nodeid]["unreached"] == report["unreached"]
    changed = SUITE.replace("0.001", "1e6").replace("1e9", "1").replace("users=2, fetch", "users=4, fetch")
    suite.write("test_it.py", changed)
    result = suite.run("-v", "--comfyload-recheck=latest", *NOWHERE)
    result.assert_outcomes(passed=5, failed=2, errors=2)
    assert sorted((suite.folder / ".comfyload" / "runs").iterdir()) == files
    assert not list((suite.folder / ".comfyload" / "spool").glob("*.jsonl"))
    output = result.stdout.str()
    assert output.count("note: judged again: measured 20") == len(files)
    assert output.count("note: the test's scenario has changed since; it is txt2img, 4 users × 1 iteration now") == 2
    for fixture in ("comfyui", "gpu", "run_ab", "find_capacity"):
        said = f"--comfyload-recheck=latest contacts no server, and `{fixture}` needs one"
        assert output.splitlines().count(said) == 1
    assert "Traceback" not in output


def _forget(suite: Suite) -> dict[str, dict[str, Any]]:
    """Return the reports so far by test, and clear them for the next run."""
    reports = {report["nodeid"]: report for report in suite.reports()}
    (suite.folder / "reports.jsonl").unlink()
    return reports


def test_a_run_of_another_test_is_refused(suite: Suite, server: str) -> None:
    suite.listen()
    suite.write("test_it.py", f'@load_scenario("txt2img", {QUICK})\ndef test_one(load): pass\n')
    suite.run("--comfyui-url", server)
    (run,) = suite.run_ids()["test_one"]
    suite.write("test_it.py", f'@load_scenario("txt2img", {QUICK})\ndef test_other(load): pass\n')
    result = suite.run(f"--comfyload-recheck={run}")
    result.assert_outcomes(errors=1)
    assert f"{run!r} names no run of test_it.py::test_other; it names test_it.py::test_one" in result.outlines
    result = suite.run("--comfyload-recheck=nonsense")
    assert "no run is named 'nonsense'; the store has no names" in result.outlines
    result = suite.run_here("--comfyload-recheck=latest", "--comfyload-store=none")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
