"""Executors say when the next iteration is due; pure, so each law is checked by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.scenario.executors import Burst, ConstantUsers, PerUserIterations

times = st.floats(0, 1e6)


@given(st.integers(1, 20), times)
def test_per_user_iterations_end_after_their_number(iterations: int, end: float) -> None:
    executor = PerUserIterations(users=1, iterations=iterations)
    assert executor.next_start(iterations - 1, end) is not None
    assert executor.next_start(iterations, end) is None


@given(times, times)
def test_think_time_counts_from_the_previous_end(end: float, think_time: float) -> None:
    assert PerUserIterations(1, 5, think_time).next_start(1, end) == end + think_time


@given(st.floats(0.1, 1e4), times, st.floats(0, 100))
def test_constant_users_start_nothing_after_the_duration(duration: float, end: float, think_time: float) -> None:
    start = ConstantUsers(2, duration, think_time).next_start(1, end)
    assert start is None if end + think_time >= duration else start == end + think_time


def test_a_burst_is_one_prompt_for_each_user_at_once() -> None:
    assert Burst(9).next_start(0, None) == 0
    assert Burst(9).next_start(1, 3.0) is None


@pytest.mark.parametrize(
    ("executor", "text"),
    [
        (PerUserIterations(5, 3), "5 users × 3 iterations"),
        (PerUserIterations(1, 1, 2.0), "1 user × 1 iteration, 2.0 s think time"),
        (ConstantUsers(2, 600), "2 users for 10 min"),
        (Burst(15), "burst of 15 prompts"),
    ],
)
def test_they_describe_themselves(executor: object, text: str) -> None:
    assert str(executor) == text
