"""A session's runs are in the store when it ends: once each, with their checks, whichever process ran them."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from pytest_comfyload.history.record import Record
from pytest_comfyload.history.store import Store
from pytest_comfyload.launch.simulator import SimulatorProcess
from tests.history.repository import Repository
from tests.plugin.suite import Suite

LOAD = """
@load_scenario("txt2img", users=2, iterations=2, fetch=False, warmup=0, max_send_lag="30s")
class TestLoad:
    def test_met(self, load):
        assert load.success_rate == 100
    def test_missed(self, load):
        assert load.success_rate < 50
"""


def _records(suite: Suite, where: str = ".comfyload") -> list[Record]:
    store = Store.open(suite.folder / where)
    return [store.load(row) for row in store.runs()]


def test_a_run_is_kept_once_with_the_checks_of_all_its_tests(suite: Suite, server: str, workers: list[str]) -> None:
    repository = Repository.begin(suite.folder)
    suite.write("test_it.py", LOAD)
    repository.git("add", "test_it.py")
    commit = repository.commit("one")
    result = suite.run("--comfyui-url", server, "--comfyload-label", "mine", *workers)
    result.assert_outcomes(passed=1, failed=1)
    (run,) = _records(suite)
    assert (run.provenance.commit, run.provenance.branch, run.provenance.label) == (commit, "main", "mine")
    assert {test.nodeid.rpartition("::")[2]: [check.passed for check in test.checks] for test in run.checks} == {
        "test_met": [True],
        "test_missed": [False],
    }
    assert (run.state, len(run.outcomes), run.load().simulated) == ("valid", 4, True)
    assert run.environment["load"] == "2 users × 2 iterations"
    assert run.environment["gpu"] == "NVIDIA GeForce RTX 4090"
    assert run.subject["KSampler.steps"] == 20
    assert list((suite.folder / ".comfyload" / "spool").iterdir()) == []
    assert "1 run stored in .comfyload; `comfyload history` lists all" in result.outlines
    assert f"  run {run.run_id}" in result.outlines


ONE = '@load_scenario("txt2img", fetch=False, warmup=0, max_send_lag="30s")\ndef test_it(load):\n    pass\n'


FETCHED = '@load_scenario("txt2img", users=2, iterations=3, max_send_lag="30s")\ndef test_it(load):\n    pass\n'


def test_pictures_are_kept_with_the_run(suite: Suite, server: str, workers: list[str]) -> None:
    suite.write("test_it.py", FETCHED)
    suite.run("--comfyui-url", server, *workers).assert_outcomes(passed=1)
    (run,) = _records(suite)
    # The first two prompts are kept as well, unless they are already among these.
    reasons = [each.why for each in run.pictures]
    assert reasons[:4] == ["slowest"] * 3 + ["typical"]
    assert reasons[4:] == ["first"] * (len(reasons) - 4)
    assert len(reasons) <= 6
    firsts = {each.prompt_id for each in run.outcomes if not each.warmup and each.iteration == 0}
    assert firsts <= {each.prompt_id for each in run.pictures}
    total = {each.prompt_id: each.total_time or 0.0 for each in run.outcomes if not each.warmup}
    assert [each.prompt_id for each in run.pictures][:3] == sorted(total, key=lambda each: -total[each])[:3]
    for each in run.pictures:
        with Image.open(io.BytesIO(each.content), formats=["WEBP"]) as picture:
            assert picture.size == (each.width, each.height) == (256, 256)
    assert sum(len(each.content) for each in run.pictures) < 260_000


def test_blank_pictures_are_kept_too(suite: Suite) -> None:
    with SimulatorProcess(time_scale=100, faults={"blank-picture": 1.0}) as process:
        suite.write("test_it.py", FETCHED)
        suite.run("--comfyui-url", process.url).assert_outcomes(passed=1)
    (run,) = _records(suite)
    # The first prompts come last, unless they are already among the others.
    assert [each.why for each in run.pictures if each.why != "first"][-2:] == ["bad", "bad"]


def test_those_who_must_not_keep_pictures_keep_none(suite: Suite, server: str) -> None:
    (suite.folder / "pytest.ini").write_text("[pytest]\ncomfyload_keep_pictures = none\n", encoding="utf-8")
    suite.write("test_it.py", FETCHED)
    suite.run("--comfyui-url", server).assert_outcomes(passed=1)
    (run,) = _records(suite)
    assert run.pictures == ()


def test_a_store_elsewhere(suite: Suite, server: str) -> None:
    suite.write("test_it.py", ONE)
    suite.run("--comfyui-url", server, "--comfyload-store", "kept/here").assert_outcomes(passed=1)
    assert len(_records(suite, "kept/here")) == 1
    assert not (suite.folder / ".comfyload" / "runs").exists()


def test_a_store_behind_a_url(suite: Suite, server: str) -> None:
    pytest.importorskip("fsspec")
    suite.write("test_it.py", ONE)
    (suite.folder / "pytest.ini").write_text(
        f"[pytest]\ncomfyload_store = file://{suite.folder}/far\n", encoding="utf-8"
    )
    suite.run("--comfyui-url", server).assert_outcomes(passed=1)
    assert len(_records(suite, "far")) == 1


def test_no_store(suite: Suite, server: str) -> None:
    suite.write("test_it.py", ONE)
    result = suite.run("--comfyui-url", server, "--comfyload-store", "none")
    result.assert_outcomes(passed=1)
    assert not (suite.folder / ".comfyload" / "runs").exists()
    (spool,) = (suite.folder / ".comfyload" / "spool").glob("*.jsonl")
    # The next session does not mistake it for an orphan.
    suite.run("--comfyui-url", server).assert_outcomes(passed=1)
    assert spool.exists()
    assert len(_records(suite)) == 1


def test_an_empty_name_is_no_store(suite: Suite) -> None:
    result = suite.run_here("--comfyload-store=")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--comfyload-store is empty; give a folder, a URL, or `none`"])


def test_a_store_that_cannot_be_written_is_said_and_the_next_session_tries_again(
    suite: Suite, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # the line has three long paths
    suite.write("test_it.py", ONE)
    (suite.folder / "file").touch()
    result = suite.run("--comfyui-url", server, "--comfyload-store", "file")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["not kept: the store */file: *; the next session tries again"])
    (suite.folder / "test_it.py").write_text("def test_plain(): pass\n", encoding="utf-8")
    suite.run().assert_outcomes(passed=1)
    assert len(_records(suite)) == 1


def test_a_session_that_was_killed_is_adopted_by_the_next(suite: Suite, server: str) -> None:
    suite.write("test_it.py", ONE + "    import os\n    os.kill(os.getpid(), 9)\n")
    assert suite.run("--comfyui-url", server).ret == -9
    assert _records(suite) == []
    (suite.folder / "test_it.py").write_text("def test_plain(): pass\n", encoding="utf-8")
    suite.run("--co").assert_outcomes()
    assert _records(suite) == []
    suite.run().assert_outcomes(passed=1)
    (run,) = _records(suite)
    assert (run.state, run.checks, len(run.outcomes)) == ("valid", (), 1)


def test_a_prompt_by_hand_is_no_run(suite: Suite, server: str) -> None:
    suite.write("test_it.py", "def test_it(comfyui):\n    comfyui.submit('txt2img')\n")
    suite.run("--comfyui-url", server).assert_outcomes(passed=1)
    assert _records(suite) == []


def test_loads_of_one_test_are_series_of_their_own(suite: Suite, server: str) -> None:
    suite.write(
        "test_it.py",
        """
        @pytest.mark.parametrize("steps", [3, 4])
        def test_it(run_load, steps):
            for users in (1, 1):
                run_load("txt2img", users=users, inputs={"KSampler.steps": steps}, max_send_lag="30s", fetch=False)
        """,
    )
    suite.run("--comfyui-url", server).assert_outcomes(passed=2)
    series = {(run.facts.title, run.facts.parameters): run.subject["KSampler.steps"] for run in _records(suite)}
    assert series == {
        ("test_it.py::test_it[3]", "3"): 3,
        ("test_it.py::test_it[3], load 2", "3"): 3,
        ("test_it.py::test_it[4]", "4"): 4,
        ("test_it.py::test_it[4], load 2", "4"): 4,
    }


def test_parameters_tell_runs_of_one_id_apart(suite: Suite, server: str) -> None:
    suite.write(
        "test_it.py",
        """
        @pytest.mark.parametrize("steps", [3, 4])
        @load_scenario("txt2img", id="series", inputs={"KSampler.steps": param("steps")}, max_send_lag="30s")
        class TestIt:
            def test_it(self, load, steps):
                pass
        """,
    )
    suite.run("--comfyui-url", server).assert_outcomes(passed=2)
    assert {(run.facts.title, run.facts.parameters) for run in _records(suite)} == {
        ("series", "steps=3"),
        ("series", "steps=4"),
    }


def test_no_password_reaches_the_disk(suite: Suite, server: str) -> None:
    suite.write("test_it.py", ONE)
    repository = Repository.begin(suite.folder)
    repository.commit("one")
    repository.git("remote", "add", "origin", "https://me:hunter2@host/o/r")
    url = server.replace("http://", "http://me:hunter2@")
    suite.run("--comfyui-url", url).assert_outcomes(passed=1)
    (run,) = _records(suite)
    assert run.provenance.repository == "https://host/o/r"
    content = json.dumps(run.figures) + str(run)
    assert "hunter2" not in content
    found = subprocess.run(["grep", "-rl", "hunter2", ".comfyload"], cwd=suite.folder, capture_output=True)
    assert found.stdout == b""
    assert Path(suite.folder / ".comfyload").is_dir()
