"""Options about earlier runs: what happens when there are too few, how a baseline is made, which figures decide."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from pytest_comfyload.history.store import Store
from tests.history.repository import Repository
from tests.plugin.suite import Suite

LOAD = """
@load_scenario("txt2img", users=1, iterations=2, fetch=False, warmup=0, max_send_lag="30s", gate={gate},
               inputs={{"KSampler.steps": {steps}}})
def test_it(load):
    {body}
"""
GATE = "--comfyload-fail-on-regression"


class Project:
    """A repository with one load test."""

    def __init__(self, suite: Suite, server: str) -> None:
        self.suite = suite
        self.repository = Repository.begin(suite.folder)
        (suite.folder / ".gitignore").write_text("*\n!test_it.py\n!file\n", encoding="utf-8")
        self._arguments = ["--comfyui-url", server, "-p", "no:cacheprovider"]

    def commit(self, steps: int = 10, body: str = "pass", gate: str | Sequence[str] = "generation_time.p50") -> None:
        self.suite.write("test_it.py", LOAD.format(steps=steps, body=body, gate=repr(gate)))
        self.repository.git("add", "test_it.py")
        self.repository.commit(f"{steps} steps")

    def run(self, *arguments: str) -> pytest.RunResult:
        return self.suite.run(*self._arguments, *arguments)

    @property
    def store(self) -> Store:
        return Store.open(self.suite.folder / ".comfyload")

    def copy_the_run(self, sessions: int) -> None:
        """Store copies of the run as if from earlier sessions, `sessions` in all."""
        (row,) = self.store.runs()
        record = self.store.load(row)
        for number in range(1, sessions):
            self.store.add(
                msgspec.structs.replace(
                    record,
                    run_id=f"{record.run_id[:-8]}{number:08x}",
                    time=record.time - number,
                    provenance=msgspec.structs.replace(record.provenance, session=f"copy {number}"),
                )
            )


@pytest.fixture
def project(suite: Suite, server: str, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(Path(suite.folder).parent), prepend=os.pathsep)
    return Project(suite, server)


def test_without_a_baseline_the_gate_fails_unless_that_is_allowed(project: Project) -> None:
    project.commit()
    project.run(GATE, "--comfyload-allow-no-baseline").assert_outcomes(passed=1)
    project.repository.commit("next")
    # A single session is too few to fail a test.
    result = project.run(GATE)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["no baseline to judge generation_time.p50 by: *Baseline sessions: 1; a failure needs 2."]
    )
    result.stdout.fnmatch_lines(["*--comfyload-allow-no-baseline passes*"])
    # Its run nevertheless counts for later sessions.
    assert len({row.session for row in project.store.runs()}) == 2


@pytest.mark.parametrize("asks", ["assert not load.regressions()", "assert load.throughput > load.baseline.throughput"])
def test_a_test_that_compares_itself_fails_where_a_baseline_is_required(project: Project, asks: str) -> None:
    project.commit(body=asks)
    result = project.run("--comfyload-require-baseline")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*NoBaseline: *no *baseline*"])


def test_a_repository_that_git_refuses_is_said_with_what_mends_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.commit()
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    result = project.run(GATE, "--comfyload-allow-no-baseline", "--comfyload-markdown=it.md")
    result.assert_outcomes(passed=1)
    mend = f"run: git config --global --add safe.directory {project.suite.folder}"
    result.stdout.fnmatch_lines([f"note: git refuses *; {mend}"])
    assert mend in html.unescape((project.suite.folder / "it.md").read_text(encoding="utf-8"))
    failed = project.run(GATE)
    failed.assert_outcomes(failed=1)
    failed.stdout.fnmatch_lines(["no baseline to judge *", f"git refuses the repository*; {mend}"])


def test_a_baseline_from_one_session(project: Project, workers: list[str]) -> None:
    project.commit()
    project.run("--comfyload-baseline-runs=3", *workers).assert_outcomes(passed=1)
    rows = project.store.runs()
    assert len(rows) == 3
    assert len({(row.series, row.session, row.commit) for row in rows}) == 1


def test_several_gates_are_judged_each_and_any_fails(project: Project) -> None:
    gates = ["success_rate", "node_time[KSampler].p50"]
    project.commit(gate=gates)
    project.run().assert_outcomes(passed=1)
    project.copy_the_run(10)
    project.commit(60, gate=gates)
    result = project.run(GATE, "--comfyload-markdown=it.md")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "regressed against the commit before*: node_time[[]KSampler[]].p50 +*",
            "regressed     test_it.py::test_it: node_time[[]KSampler[]].p50 +* % (3 runs); *",
            "unchanged: 1 test, against the commit before*",
        ]
    )
    said = (project.suite.folder / "it.md").read_text(encoding="utf-8").partition("**Against earlier runs**")[2]
    assert said.index("**regressed**: node_time") < said.index("**unchanged**: success_rate")


REGRESSIONS = """found = load.regressions(of=["success_rate", "node_time['KSampler'].p50"])
    assert [each.split(":")[1][:26] for each in found] == [" node_time[KSampler].p50 +"]
    assert len(found.told) == 2
    with pytest.raises(Exception, match="min_effect=5 would be s of queue_time.p50 and % of throughput"):
        load.regressions(of=["queue_time.p50", "throughput"], min_effect=5)
    for of in (5, [], [5]):
        with pytest.raises(Exception, match="give the name of a figure"):
            load.regressions(of=of)
    with pytest.raises(Exception, match="no metric 'total_time.p59' can be compared"):
        load.regressions(of="total_time.p59")
    with pytest.raises(Exception, match="min_effect='5%': give a change above 0"):
        load.regressions(min_effect="5%")"""


def test_regressions_of_several_figures(project: Project) -> None:
    project.commit()
    project.run().assert_outcomes(passed=1)
    project.copy_the_run(10)
    project.commit(60, body=REGRESSIONS)
    project.run().assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--comfyload-require-baseline", "--comfyload-allow-no-baseline"], "*contradict each other*"),
        (
            [GATE, "--comfyload-store=none"],
            f"*{GATE} is about runs that are kept, and --comfyload-store=none keeps none*",
        ),
        (["--comfyload-baseline-runs=2", "--comfyload-store=none"], "*--comfyload-baseline-runs is about runs*"),
        (["--comfyload-baseline-runs=0"], "*--comfyload-baseline-runs '0': give a whole number from 1 to 20*"),
        (["--comfyload-baseline-runs=x"], "*--comfyload-baseline-runs 'x': give a whole number from 1 to 20*"),
    ],
)
def test_contradictions_are_refused(suite: Suite, arguments: list[str], said: str) -> None:
    result = suite.run_here(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([said])


def test_a_gate_that_must_not_compare_needs_no_store(suite: Suite) -> None:
    suite.write("test_it.py", "def test_it(): pass\n")
    suite.run_here(GATE, "--comfyload-allow-no-baseline", "--comfyload-store=none").assert_outcomes(passed=1)
