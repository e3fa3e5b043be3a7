"""Executors say when the next iteration is due; they are pure, so each rule is tested alone."""

from __future__ import annotations

import random
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.result.run_facts import ExecutorName
from pytest_comfyload.scenario.executors import (
    ArrivalRate,
    Burst,
    ConstantUsers,
    PerUserIterations,
    RampingUsers,
    RecordedArrivals,
    SharedIterations,
    UserStage,
    planned,
)
from pytest_comfyload.scenario.pacing import RateStage

times = st.floats(0, 1e6)


@given(st.integers(1, 20), times)
def test_per_user_iterations_end_after_their_number(iterations: int, free_at: float) -> None:
    executor = PerUserIterations(users=1, iterations=iterations)
    assert executor.next_start(0, iterations - 1, 999, free_at) == free_at
    assert executor.next_start(0, iterations, 0, free_at) is None


@given(st.integers(1, 20), times)
def test_shared_iterations_end_when_all_are_taken(iterations: int, free_at: float) -> None:
    executor = SharedIterations(users=3, iterations=iterations)
    assert executor.next_start(2, 0, iterations - 1, free_at) == free_at
    assert executor.next_start(2, 0, iterations, free_at) is None


@given(st.floats(0.1, 1e4), times)
def test_constant_users_start_nothing_after_the_duration(duration: float, free_at: float) -> None:
    start = ConstantUsers(2, duration).next_start(0, 1, 1, free_at)
    assert start is None if free_at >= duration else start == free_at


def test_a_burst_is_one_prompt_for_each_user_at_once() -> None:
    assert Burst(9).next_start(0, 0, 5, 0.0) == 0
    assert Burst(9).next_start(0, 1, 5, 3.0) is None


stages = st.lists(st.builds(UserStage, st.floats(0.5, 100), st.integers(0, 9)), min_size=1, max_size=4).filter(
    lambda stages: any(stage.target for stage in stages)
)


def _due(executor: RampingUsers, time: float) -> float:
    """Return how many users are due at a time, by the definition: linear interpolation between the targets."""
    begin, before = 0.0, 0
    for stage in executor.stages:
        if time < begin + stage.duration:
            return before + (stage.target - before) * (time - begin) / stage.duration
        begin, before = begin + stage.duration, stage.target
    return 0.0


@given(stages, st.integers(0, 8), st.floats(0, 300))
def test_a_ramping_user_starts_as_soon_as_it_is_due(stages: list[UserStage], user: int, free_at: float) -> None:
    executor = RampingUsers(tuple(stages))
    start = executor.next_start(user, 0, 0, free_at)
    if start is None:
        later = [free_at + step * (executor.duration - free_at) / 50 for step in range(50)]
        assert not any(_due(executor, time) > user + 1e-6 for time in later if free_at <= time)
        return
    assert free_at <= start < executor.duration
    assert _due(executor, start) >= user - 1e-6
    waiting = [free_at + step * (start - free_at) / 20 for step in range(20)]
    assert not any(_due(executor, time) > user + 1e-6 for time in waiting if time < start)


@pytest.mark.parametrize(
    ("executor", "text"),
    [
        (PerUserIterations(5, 3), "5 users × 3 iterations"),
        (PerUserIterations(1, 1), "1 user × 1 iteration"),
        (SharedIterations(2, 10), "2 users sharing 10 iterations"),
        (ConstantUsers(2, 600), "2 users for 10 min"),
        (RampingUsers((UserStage(60, 2), UserStage(180, 8))), "ramping users to 2 in 1 min, to 8 in 3 min"),
        (Burst(15), "burst of 15 prompts"),
        (ArrivalRate((RateStage(600, 0.1, 0.1),), poisson=True), "6/min for 10 min, Poisson arrivals"),
        (
            ArrivalRate((RateStage(60, 0, 1 / 30),), max_in_flight=4),
            "ramping arrivals to 2/min in 1 min, at most 4 in flight",
        ),
        (
            RecordedArrivals((0.0, 3.0), 3600.0, "trace week.jsonl (3f2a9c1b), busiest 1h", max_in_flight=4),
            "2 arrivals in 1 h of trace week.jsonl (3f2a9c1b), busiest 1h, at most 4 in flight",
        ),
    ],
)
def test_they_describe_themselves(executor: object, text: str) -> None:
    assert str(executor) == text


def test_an_arrival_rate_is_reproducible() -> None:
    rate = ArrivalRate((RateStage(100, 1, 1),), poisson=True)
    assert list(rate.arrivals(random.Random(7))) == list(rate.arrivals(random.Random(7)))


def test_how_many_prompts_are_planned_where_that_is_known() -> None:
    assert planned(PerUserIterations(users=5, iterations=3)) == 15
    assert planned(SharedIterations(users=5, iterations=12)) == 12
    assert planned(Burst(users=15)) == 15
    assert planned(RecordedArrivals((0.0, 3.0), 60.0, "trace")) == 2
    assert planned(ConstantUsers(users=5, duration=60.0)) is None
    assert planned(RampingUsers((UserStage(60.0, 5),))) is None
    assert planned(ArrivalRate((RateStage(60.0, 1.0, 1.0),))) is None


def test_names_are_those_that_results_know() -> None:
    """Results are judged without the scenario and know executors only by name."""
    rates = [(RateStage(1.0, 1.0, 1.0),), (RateStage(1.0, 1.0, 1.0), RateStage(1.0, 2.0, 1.0))]
    names = {
        each.name
        for each in (PerUserIterations, SharedIterations, ConstantUsers, RampingUsers, Burst, RecordedArrivals)
    }
    assert names | {ArrivalRate(stages).name for stages in rates} == set(get_args(ExecutorName))
