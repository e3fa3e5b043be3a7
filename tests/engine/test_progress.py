"""What a run reports while it is running: counts that grow to the final counts, in bounded memory."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.client.clock import Clock
from pytest_comfyload.engine.engine import run_plan
from pytest_comfyload.engine.plan import EngineReport, Plan
from pytest_comfyload.engine.progress import KEPT, LoadProgress, Tally
from pytest_comfyload.protocol.timeline import NodeInterval, Timeline
from pytest_comfyload.result.outcome import Outcome, OutcomeStatus
from pytest_comfyload.scenario.executors import ArrivalRate, Burst, ConstantUsers
from pytest_comfyload.scenario.pacing import RateStage
from tests.conftest import TIME_SCALE
from tests.engine.test_engine import group, plan


def _followed(plan: Plan) -> tuple[EngineReport, list[LoadProgress]]:
    snapshots: list[LoadProgress] = []
    report = asyncio.run(run_plan(plan, Clock(TIME_SCALE), lambda outcome: None, snapshots.append))
    return report, snapshots


def test_a_burst_with_a_warm_up(simulator: str) -> None:
    _, snapshots = _followed(plan(simulator, groups=[group(Burst(users=8), 3.0)], warmup=1))
    assert snapshots[0].warming_up
    assert snapshots[0].expected is None
    measured = [progress for progress in snapshots if not progress.warming_up]
    first, last = measured[0], measured[-1]
    assert (first.done, first.total, first.p95) == (0, 8, None)
    # Eight prompts of three seconds each on one server.
    assert first.expected == pytest.approx(24.0, rel=0.3)
    assert [progress.done for progress in measured] == sorted(progress.done for progress in measured)
    assert 1 <= last.done <= 8
    # Snapshots are taken four times per second; a prompt or two may have finished in between.
    assert 6 <= max(progress.in_flight for progress in measured) <= 8
    assert 6 <= max(progress.queue_remaining for progress in measured) <= 8
    assert all(progress.done + progress.in_flight <= 8 for progress in measured)
    assert 3.0 <= (last.p95 or 0) < 40
    assert {progress.scale for progress in snapshots} == {TIME_SCALE}


def test_a_load_with_a_duration_is_expected_to_last_that_long(simulator: str) -> None:
    _, snapshots = _followed(plan(simulator, groups=[group(ConstantUsers(2, 12.0), 1.0, start=3.0)]))
    assert {(progress.expected, progress.total) for progress in snapshots} == {(15.0, None)}


def test_a_warm_up_that_only_loaded_models_promises_no_time(simulator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tally, "generation_time", lambda tally, group: 0.0)
    _, snapshots = _followed(plan(simulator, groups=[group(Burst(users=2), 1.0)], warmup=1))
    assert snapshots[-1].expected == 0.0


def test_dropped_arrivals_and_failures_are_told(simulator: str) -> None:
    executor = ArrivalRate((RateStage(10.0, 2.0, 2.0),), max_in_flight=1)
    report, snapshots = _followed(plan(simulator, groups=[group(executor, 30.0, timeout=4.0)], drain=10.0))
    assert snapshots[-1].dropped == report.dropped > 0
    assert snapshots[-1].errors["timeout"] >= 1
    assert snapshots[-1].p95 == math.inf


# --- time remaining ---


def _progress(**changes: Any) -> LoadProgress:
    known: dict[str, Any] = {
        "scale": 1.0, "warming_up": False, "elapsed": 10.0, "expected": 60.0, "total": None, "done": 0, "in_flight": 1,
        "dropped": 0, "queue_remaining": 1, "p95": None, "steps_per_second": None,
    }  # fmt: skip
    return LoadProgress(**{**known, **changes})


def test_what_remains_goes_by_the_pace_or_by_the_plan() -> None:
    assert _progress(warming_up=True).remaining is None
    assert _progress().remaining == 50.0
    assert _progress(elapsed=70.0).remaining == 0.0
    assert _progress(expected=None).remaining is None
    assert _progress(total=8).remaining == 50.0
    assert _progress(total=8, done=2).remaining == 30.0
    assert _progress(total=8, done=8).remaining == 0.0


def test_only_a_load_that_ends_by_the_clock_drains() -> None:
    assert _progress(elapsed=60.0).draining
    assert not _progress(elapsed=59.0).draining
    assert not _progress(elapsed=90.0, total=8).draining
    assert not _progress(elapsed=90.0, expected=None).draining
    assert not _progress(elapsed=90.0, warming_up=True).draining


# --- the tally ---


def _outcome(
    total: float | None, warmup: bool = False, nodes: tuple[NodeInterval, ...] = (), **changes: Any
) -> Outcome:
    timeline = None if total is None else Timeline(0.0, 0.0, 0.0, 0.0, total, total, total, nodes=nodes)
    status = OutcomeStatus.LOST if total is None else OutcomeStatus.SUCCESS
    return Outcome("id", "server", "client", 0, 0, "wf", status, 0.0, warmup=warmup, timeline=timeline, **changes)


@given(st.lists(st.none() | st.floats(0, 1e6), min_size=1, max_size=200))
def test_the_percentile_is_nearest_rank_with_failures_worst(totals: list[float | None]) -> None:
    tally = Tally()
    for total in totals:
        tally.add(_outcome(total))
    ranked = sorted(math.inf if total is None else total for total in totals)
    assert tally.p95 == ranked[-(-95 * len(ranked) // 100) - 1]
    assert tally.done == len(totals)
    assert tally.errors.total() == totals.count(None)


def test_many_outcomes_are_a_sample_and_take_no_more_memory() -> None:
    tally = Tally()
    for number in range(10 * KEPT):
        tally.add(_outcome(float(number)))
    assert len(tally._total_times) == KEPT
    # Five standard deviations of the rank are 3.4 percent.
    assert tally.p95 == pytest.approx(9500, abs=350)


def test_warm_up_tells_what_a_prompt_takes_and_counts_for_nothing_else() -> None:
    tally = Tally()
    assert tally.generation_time(None) is None
    for total in (9.0, 2.0, None):
        tally.add(_outcome(total, warmup=True))
    tally.add(_outcome(5.0, warmup=True, group="other"))
    assert (tally.done, tally.p95, dict(tally.errors)) == (0, None, {})
    assert tally.generation_time(None) == 2.0
    assert tally.generation_time("other") == 5.0


def test_a_cold_warm_up_tells_what_a_warm_prompt_takes() -> None:
    tally = Tally()
    loading = NodeInterval("1", "CheckpointLoaderSimple", 0.0, 20.0)
    sampling = NodeInterval("2", "KSampler", 20.0, 25.0, ((23.0, 1.0), (24.0, 2.0), (25.0, 3.0)))
    tally.add(_outcome(26.0, warmup=True, nodes=(loading, sampling)))
    # Excludes 20 s in the loader and 2 s in the sampler before its first step.
    assert tally.generation_time(None) == pytest.approx(4.0)
