"""A test's verdict at a commit, with what explains it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest

from pytest_comfyload.compare.acceptance import Acceptance
from pytest_comfyload.compare.commit_graph import CommitGraph
from pytest_comfyload.compare.comparison import RunComparer, SeriesComparison
from pytest_comfyload.errors import UsageError
from pytest_comfyload.history.git import Git
from pytest_comfyload.history.index import Row
from pytest_comfyload.history.record import Record
from pytest_comfyload.metrics.regression import RegressionVerdict
from tests.history.records import golden, row
from tests.history.repository import Repository

TIMES = [2.0, 2.02, 1.98, 2.01, 1.99, 2.0, 2.02, 1.98, 2.0, 2.0]


def timed(number: int, time: float, **different: Any) -> Row:
    figures = {
        "success_rate": 100.0,
        "generation_time.p50": time,
        "throughput": 30 / time,
        "node_time.KSampler.p50": time - 0.5,
        "node_time.VAEDecode.p50": 0.4,
    }
    return row(number, figures=figures | different.pop("figures", {}), branch="main", **different)


def told_by(of: Row) -> Record:
    import msgspec

    steps = 6 if of.figures.get("generation_time.p50", 0.0) > 3 else 2
    environment = {"gpu": "NVIDIA GeForce RTX 4090" if of.fingerprint == "01234567" else "NVIDIA L4"}
    return msgspec.structs.replace(golden(), subject={"KSampler.steps": steps}, environment=environment)


def judged(rows: Sequence[Row], lineage: CommitGraph | None = None, **different: Any) -> SeriesComparison:
    return RunComparer(rows, told_by, lineage or CommitGraph()).judge(rows[-1], **different)


@pytest.fixture
def slower(repository: Repository) -> tuple[list[Row], CommitGraph]:
    """Ten runs of a commit, and three of the next one, which takes more steps."""
    base, head = repository.commit("base"), repository.commit("more steps")
    rows = [timed(number, time, commit=base) for number, time in enumerate(TIMES)]
    rows += [timed(20 + number, 4.0, commit=head, session="head") for number in range(3)]
    return rows, CommitGraph(Git(repository.path))


def test_a_regression_names_the_class_and_the_change(slower: tuple[list[Row], CommitGraph]) -> None:
    verdict = judged(*slower)
    assert verdict.verdict is RegressionVerdict.REGRESSED
    assert verdict.fails
    assert verdict.sentence() == (
        "+100 % (3 runs); limit 5 %, the least change that counts. Level: 10 sessions on RTX 4090; noise 1.2 %."
    )
    assert verdict.subject == ("KSampler.steps 2 → 6",)
    assert verdict.nodes == ("KSampler 1.5 → 3.5 s (+2)",)
    assert [each.metric.name for each in verdict.explained] == ["throughput"]


def test_an_accepted_change_fails_nothing_and_begins_a_baseline(slower: tuple[list[Row], CommitGraph]) -> None:
    rows, lineage = slower
    assert rows[-1].commit is not None
    acceptance = Acceptance(rows[-1].commit[:12], "better pictures")
    verdict = RunComparer(rows, told_by, lineage, [acceptance]).judge(rows[-1])
    assert not verdict.fails
    assert verdict.sentence().endswith("Accepted: better pictures")


def test_runs_before_an_accepted_change_are_no_baseline_after_it(repository: Repository) -> None:
    old, accepted, head = (repository.commit(title) for title in ("old", "accepted", "head"))
    rows = [timed(number, time, commit=old) for number, time in enumerate(TIMES)]
    rows += [timed(20 + number, 2 * time, commit=accepted) for number, time in enumerate(TIMES)]
    rows += [timed(40, 4.0, commit=head)]
    lineage = CommitGraph(Git(repository.path))
    assert len(judged(rows, lineage).baseline.sessions) == 20
    verdict = RunComparer(rows, told_by, lineage, [Acceptance(accepted, "better pictures")]).judge(rows[-1])
    assert (len(verdict.baseline.sessions), verdict.verdict) == (10, RegressionVerdict.UNCHANGED)


def test_creep_since_the_last_tag_fails_when_it_held_three_sessions(repository: Repository) -> None:
    rng = random.Random(3)
    commits = [repository.commit(f"commit {number}") for number in range(12)]
    repository.git("tag", "v1")
    commits += [repository.commit(f"after {number}") for number in range(24)]
    drift = [1.006 ** max(0, number - 11) * math.exp(rng.gauss(0, 0.01)) for number in range(36)]
    rows = [timed(number, 2 * drift[number], commit=commit) for number, commit in enumerate(commits)]
    lineage = CommitGraph(Git(repository.path))
    found = [RunComparer(rows, told_by, lineage).judge(row) for row in rows]
    alarms = [number for number, each in enumerate(found) if each.creep is not None]
    assert 15 < alarms[0] < 30
    assert [found[number].fails for number in alarms[:3]] == [False, False, True]
    failed = found[alarms[2]]
    assert failed.verdict is RegressionVerdict.UNCHANGED
    assert f"since v1 over {alarms[2] - 11} sessions; no single one explains it." in failed.sentence()


def test_runs_that_did_other_work_are_not_compared() -> None:
    ran, cached = (
        {"txt2img": {"CLIPTextEncode": [*prompts], "KSampler": [0, 3]}} for prompts in ((0, 3, 0), (3, 0, 0))
    )
    rows = [timed(number, time, executions=ran) for number, time in enumerate(TIMES)]
    verdict = judged([*rows, timed(20, 1.0, executions=cached)])
    assert verdict.verdict is RegressionVerdict.INCONCLUSIVE
    assert verdict.sentence() == (
        "Not compared: the work differs: CLIPTextEncode ran in 100 % of prompts before, 0 % now."
    )
    assert (verdict.nodes, verdict.explained, verdict.subject) == ((), (), ())
    for same in (ran, {}, {"txt2img": {"CLIPTextEncode": [3, 0], "KSampler": [0, 3]}}):
        assert judged([*rows, timed(20, 2.0, executions=same)]).verdict is RegressionVerdict.UNCHANGED


def test_another_gpu_is_refused_with_what_differs() -> None:
    rows = [timed(number, time, fingerprint="ffffffff") for number, time in enumerate(TIMES)] + [timed(20, 2.0)]
    verdict = judged(rows)
    assert verdict.sentence() == ("Not compared: another environment: gpu NVIDIA L4 → NVIDIA GeForce RTX 4090.")
    assert (verdict.verdict, verdict.fails) == (RegressionVerdict.INCONCLUSIVE, False)


def test_a_run_with_many_failures_is_not_compared() -> None:
    rows = [timed(number, time) for number, time in enumerate(TIMES)]
    rows.append(timed(20, 1.0, figures={"success_rate": 80.0}))
    verdict = judged(rows)
    assert verdict.verdict is RegressionVerdict.INCONCLUSIVE
    assert "20 % of the prompts failed" in verdict.sentence()


def test_the_first_runs_are_a_recording() -> None:
    verdict = judged([timed(1, 2.0)])
    assert verdict.verdict is RegressionVerdict.RECORDING
    assert verdict.sentence() == "No earlier session to compare with; to compare now, run both interleaved: run_ab."


def test_another_figure_can_decide() -> None:
    rows = [timed(number, 2.0, figures={"queue_time.p95": 0.0}) for number in range(10)]
    rows.append(timed(20, 2.0, figures={"queue_time.p95": 0.5}))
    verdict = judged(rows, gate="queue_time.p95")
    assert verdict.verdict is RegressionVerdict.SUSPECTED
    assert verdict.gate.comparison.rerun


def test_a_gate_that_nobody_knows_gives_way_to_the_usual_one() -> None:
    rows = [timed(number, 2.0) for number in range(10)] + [timed(20, 2.0, gate="of another version")]
    assert judged(rows).gate.metric.name == "generation_time.p50"


def test_a_greater_least_effect_is_a_wider_limit(slower: tuple[list[Row], CommitGraph]) -> None:
    rows, lineage = slower
    assert judged(rows, lineage, least_effect=150.0).verdict is RegressionVerdict.UNCHANGED
    with pytest.raises(UsageError, match="min_effect=0"):
        judged(rows, lineage, least_effect=0)


def test_a_figure_that_cannot_be_compared_is_refused() -> None:
    with pytest.raises(UsageError, match="generation_time"):
        judged([timed(1, 2.0)], gate="generation_tim.p50")
