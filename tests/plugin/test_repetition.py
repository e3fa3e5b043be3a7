"""A test that runs again runs its load again, whichever plugin repeats it, and each run is kept separately."""

from __future__ import annotations

from typing import Any

import pytest

from tests.plugin.suite import Suite

QUICK = 'fetch=False, max_send_lag="30s", warmup=0'


def test_each_attempt_is_a_load_of_its_own(suite: Suite, server: str, workers: list[str]) -> None:
    pytest.importorskip("pytest_rerunfailures")
    suite.listen()
    suite.write(
        "test_it.py",
        f"""
        attempts = []

        @load_scenario("txt2img", seed=7, allow_cached=True, {QUICK})
        def test_second(load):
            attempts.append(load)
            assert load.timeouts == 2 - len(attempts)

        @load_scenario("txt2img", {QUICK}, id="shared")
        class TestShared:
            def test_met(self, load):
                assert load.success_rate == 100
            def test_never(self, load):
                assert load.success_rate < 50
            def test_never_either(self, load):
                assert load.success_rate < 60

        def test_by_hand(run_load):
            load = run_load("txt2img", seed=8, allow_cached=True, {QUICK})
            assert load.seed != 8
        """,
    )
    options = ["--reruns=2", "--junitxml=it.xml", "--comfyload-markdown=it.md"]
    result = suite.run(*workers, "-v", "--comfyui-url", server, *options)
    assert "2 failed, 3 passed, 6 rerun" in result.stdout.str()
    runs: dict[str, list[dict[str, Any]]] = {}
    for report in suite.reports():
        runs.setdefault(report["nodeid"].rpartition("::")[2], []).extend(report["runs"])
    ids = {name: [run["run_id"] for run in each] for name, each in runs.items()}
    attempts = {"test_second": 2, "test_met": 1, "test_never": 3, "test_never_either": 3, "test_by_hand": 2}
    assert {name: len(set(each)) for name, each in ids.items()} == attempts
    # Tests that share a load share each attempt at it.
    assert ids["test_never"] == ids["test_never_either"]
    assert ids["test_never"][0] == ids["test_met"][0]
    for name, given in (("test_second", 7), ("test_by_hand", 8)):
        first, second = [run["seed"] for run in runs[name]]
        assert first == given != second
    assert len(list((suite.folder / ".comfyload" / "runs").iterdir())) == 2 + 3 + 2
    lines = {line.strip() for line in result.outlines}
    assert {"shared", "shared (attempt 2)", "shared (attempt 3)"} <= lines
    assert {"test_second (attempt 1 of 2)", "test_second (attempt 2 of 2)", "test_met"} <= lines
    summary = (suite.folder / "it.md").read_text(encoding="utf-8")
    # One repetition of `test_second`, and two of each test that always fails.
    assert "2 of 9 SLOs violated, 5 run again, 2 held" in summary
    cases = (suite.folder / "it.xml").read_text(encoding="utf-8").split("<testcase ")[1:]
    assert all(case.count('"comfyload.run"') == 1 for case in cases)


def test_attempts_at_a_load_that_only_the_body_of_a_test_asks_for(suite: Suite) -> None:
    pytest.importorskip("pytest_rerunfailures")
    suite.write(
        "test_it.py",
        f"""
        def test_by_hand(request):
            load = request.getfixturevalue("run_load")("txt2img", seed=8, allow_cached=True, {QUICK})
            assert load.seed != 8
        """,
    )
    assert "1 passed, 1 rerun" in suite.run("--reruns=1").stdout.str()


def test_a_load_that_failed_is_tried_again(suite: Suite) -> None:
    pytest.importorskip("pytest_rerunfailures")
    suite.write("test_it.py", '@load_scenario("txt2img")\ndef test_it(load): pass\n')
    result = suite.run("--comfyui-url", "http://127.0.0.1:9", "--reruns=2", "-rR")
    assert result.stdout.str().count("RERUN test_it.py::test_it") == 2
    result.assert_outcomes(errors=1)


def test_copies_of_a_test_are_loads_of_one_series(suite: Suite, server: str) -> None:
    pytest.importorskip("pytest_repeat")
    suite.listen()
    suite.write(
        "test_it.py",
        f"""
        @load_scenario("txt2img", seed=9, allow_cached=True, {QUICK})
        def test_function(load):
            assert load.facts.parameters == ""

        @load_scenario("txt2img", {QUICK})
        @pytest.mark.parametrize("steps", [2])
        def test_parameter(load, steps):
            assert load.facts.parameters == "2"

        @load_scenario("txt2img", {QUICK})
        class TestShared:
            def test_one(self, load): pass
            def test_two(self, load): pass
        """,
    )
    suite.run("--comfyui-url", server, "--count=2").assert_outcomes(passed=8)
    runs = {report["nodeid"].rpartition("::")[2]: report["runs"][0] for report in suite.reports()}
    ids = {name: run["run_id"] for name, run in runs.items()}
    assert ids["test_one[1-2]"] == ids["test_two[1-2]"] != ids["test_one[2-2]"] == ids["test_two[2-2]"]
    assert len(set(ids.values())) == 6
    assert runs["test_function[1-2]"]["seed"] == 9 != runs["test_function[2-2]"]["seed"]
    titles = {run["title"].rpartition("::")[2] for run in runs.values()}
    assert titles == {"test_function", "test_parameter[2]", "TestShared"}
