"""A load and the runs before it: baseline, regressions with their reruns, and the options that fail on them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec
import pytest

from pytest_comfyload.history.store import Store
from tests.history.repository import Repository
from tests.plugin.suite import Suite

LOAD = """
@load_scenario(
    "txt2img", users=1, iterations=3, fetch=False, max_send_lag="30s", seed=SEED, inputs={"KSampler.steps": STEPS}
)
def test_it(load):
    ASSERT
"""


class Project:
    """A suite in a repository, whose store has earlier runs of it."""

    def __init__(self, suite: Suite, arguments: list[str]) -> None:
        self.suite = suite
        self.repository = Repository.begin(suite.folder)
        self._arguments = arguments

    def write(self, assertion: str, steps: int = 20, seed: int | None = None) -> None:
        load = LOAD.replace("STEPS", str(steps)).replace("SEED", str(seed))
        self.suite.write("test_it.py", load.replace("ASSERT", assertion))

    def run(self, *arguments: str) -> pytest.RunResult:
        return self.suite.run(*self._arguments, *arguments)

    @property
    def store(self) -> Store:
        return Store.open(self.suite.folder / ".comfyload")

    def commit(self, title: str) -> str:
        (self.suite.folder / ".gitignore").write_text("*\n!test_it.py\n!file\n", encoding="utf-8")
        self.repository.git("add", "test_it.py")
        return self.repository.commit(title)

    def record(self, runs: int) -> None:
        """Run once, and store copies of the run as if from other sessions, `runs` in all."""
        self.write("pass")
        self.commit("before")
        self.run().assert_outcomes(passed=1)
        (row,) = self.store.runs()
        record = self.store.load(row)
        for number in range(1, runs):
            run_id = f"{record.run_id[:-8]}{number:08x}"
            come = msgspec.structs.replace(record.provenance, session=f"session {number}")
            copy = msgspec.structs.replace(record, run_id=run_id, time=record.time - number, provenance=come)
            self.store.add(copy)


@pytest.fixture
def project(suite: Suite, server: str, workers: list[str], monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(Path(suite.folder).parent), prepend=os.pathsep)
    return Project(suite, ["--comfyui-url", server, *workers])


def test_the_first_run_has_no_baseline_and_passes(project: Project) -> None:
    project.write("assert load.generation_time.p50 < 1.1 * load.baseline.generation_time.p50")
    project.commit("first")
    result = project.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["recording: 1 test has no earlier session to compare with, and no verdict yet"])


def test_a_required_baseline_fails_the_first_run(project: Project) -> None:
    project.write("assert not load.regressions()")
    project.commit("first")
    result = project.run("--comfyload-require-baseline")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*NoBaseline: no baseline to judge generation_time.p50 by: No earlier session*"])


def test_an_unchanged_commit_is_unchanged(project: Project) -> None:
    project.record(12)
    project.write("assert load.generation_time.p50 < 1.5 * load.baseline.generation_time.p50")
    project.commit("after")
    result = project.run("--comfyload-fail-on-regression")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["unchanged: 1 test, against the commit before*"])


def test_a_slower_commit_fails_after_two_reruns_and_says_why(project: Project) -> None:
    project.record(12)
    project.write("assert not load.regressions()", steps=40, seed=7)
    project.commit("slower")
    result = project.run("--comfyload-markdown=it.md")
    result.assert_outcomes(failed=1)
    assert "**Against earlier runs**" in (project.suite.folder / "it.md").read_text(encoding="utf-8")
    result.stdout.fnmatch_lines(
        [
            "*regressed against the commit before*KSampler.steps 20 → 40*",
            "regressed *test_it: generation_time.p50 +* % (3 runs); limit * Level: * sessions on RTX 4090; noise *",
            "  changed: KSampler.steps 20 → 40",
        ]
    )
    runs = sorted(project.store.runs(), key=lambda row: row.time)
    assert len(runs) == 15
    # With the first run's seeds, a rerun would be served from the cache of a server that keeps its results.
    seeds = [project.store.load(row).facts.seed for row in runs[-3:]]
    assert seeds[0] == 7
    assert len({*seeds}) == 3


def test_the_option_fails_a_test_that_asks_nothing(project: Project) -> None:
    project.record(12)
    project.write("pass", steps=40)
    project.commit("slower")
    project.run().assert_outcomes(passed=1)
    result = project.run("--comfyload-fail-on-regression", "--junitxml=it.xml")
    result.assert_outcomes(failed=1)
    assert re.search(r'failures="1"', (project.suite.folder / "it.xml").read_text(encoding="utf-8"))


def test_a_greater_least_effect_lets_it_pass(project: Project) -> None:
    project.record(12)
    project.write("assert not load.regressions(min_effect=200)", steps=40)
    project.commit("slower")
    project.run().assert_outcomes(passed=1)


def test_the_baseline_can_be_named(project: Project) -> None:
    project.record(12)
    project.repository.git("tag", "v1")
    project.write("assert not load.regressions()", steps=40)
    project.commit("slower")
    project.run("--comfyload-baseline=v1").stdout.fnmatch_lines(["*regressed against v1: *"])


def test_a_name_that_nothing_has_is_refused_before_the_load(project: Project) -> None:
    project.record(1)
    project.write("pass")
    result = project.run("--comfyload-baseline=v9")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["no run is named 'v9'; there are: latest, main, *"])
    assert len(project.store.runs()) == 1


def test_a_figure_that_cannot_be_compared_is_refused_at_collection(suite: Suite) -> None:
    suite.write("test_it.py", '@load_scenario("txt2img", gate="generation_time.median")\ndef test_it(load): ...\n')
    suite.run_here().stdout.fnmatch_lines(
        ["*test_it: no metric 'generation_time.median' can be compared from run to run; legal: generation_time.mean, *"]
    )


def test_with_no_store_there_is_no_past(project: Project) -> None:
    project.write("assert load.generation_time.p50 < load.baseline.generation_time.p50")
    project.run("--comfyload-store=none").assert_outcomes(passed=1)


@pytest.mark.parametrize("workers", [[]])
def test_earlier_runs_that_were_damaged_since_are_passed_over(project: Project) -> None:
    project.record(12)
    assert len(project.store.runs()) == 12
    damaged = sorted((project.suite.folder / ".comfyload" / "runs").iterdir())[6:]
    for path in damaged:
        path.write_bytes(bytes(path.stat().st_size))
    project.write("assert not load.regressions()", steps=40)
    project.commit("slower")
    result = project.run()
    result.assert_outcomes(failed=1)
    for path in damaged:
        (line,) = [line for line in result.outlines if path.name in line]
        assert line.startswith("skipped: ")
