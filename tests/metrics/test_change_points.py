"""Steps in a history are found where they occur, and noise is not mistaken for a step."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_comfyload.metrics.change_points import change_points


def test_a_step_is_found_where_it_is() -> None:
    (point,) = change_points(_noisy(60, 0.02, steps={30: 1.1}))
    assert point.index == 30
    assert point.change == pytest.approx(10, abs=2)


def test_several_steps_up_and_down() -> None:
    points = change_points(_noisy(300, 0.02, steps={80: 1.15, 140: 0.9, 220: 1.2}))
    assert [point.index for point in points] == pytest.approx([80, 140, 220], abs=1)
    assert [point.change > 0 for point in points] == [True, False, True]


def test_a_step_without_any_noise() -> None:
    (point,) = change_points([1.0] * 20 + [2.0] * 20)
    assert (point.index, point.before, point.after, point.change) == (20, 1.0, 2.0, 100.0)


def test_a_step_from_zero() -> None:
    (point,) = change_points([0.0] * 20 + [1.0] * 20)
    assert point.change == math.inf


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0] * 2, [3.0] * 200])
def test_where_nothing_steps_nothing_is_marked(values: list[float]) -> None:
    assert change_points(values) == ()


def test_four_runs_on_a_new_level_are_too_few() -> None:
    assert change_points([1.0] * 50 + [2.0] * 4) == ()
    assert len(change_points([1.0] * 50 + [2.0] * 5)) == 1


def test_three_percent_do_not_matter() -> None:
    assert change_points([1.0] * 30 + [1.03] * 30) == ()


def test_a_lone_outlier_is_no_step() -> None:
    values = _noisy(100, 0.02)
    values[50] *= 3
    assert change_points(values) == ()


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_false_marks_at_two_percent_noise(correlation: float) -> None:
    rng = random.Random(5)
    marks = sum(len(change_points(_noisy(1000, 0.02, correlation=correlation, rng=rng))) for _ in range(60))
    assert marks / 60 <= (0.1 if correlation == 0 else 0.2)


def test_ten_percent_are_found_after_five_commits() -> None:
    rng = random.Random(6)
    found = 0
    for _ in range(100):
        points = change_points(_noisy(105, 0.02, steps={100: 1.1}, rng=rng))
        found += any(abs(point.index - 100) <= 2 for point in points)
    assert found >= 95


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.1, 100), max_size=120), st.floats(0.01, 1000))
def test_the_unit_does_not_matter(values: list[float], factor: float) -> None:
    scaled = change_points([factor * value for value in values])
    assert [point.index for point in scaled] == [point.index for point in change_points(values)]


def _noisy(
    n: int,
    noise: float,
    *,
    steps: dict[int, float] | None = None,
    correlation: float = 0.0,
    rng: random.Random | None = None,
) -> list[float]:
    rng = rng or random.Random(7)
    level, error, values = 1.0, 0.0, []
    for index in range(n):
        level *= (steps or {}).get(index, 1.0)
        error = correlation * error + rng.gauss(0, noise) * math.sqrt(1 - correlation**2)
        values.append(level * math.exp(error))
    return values
