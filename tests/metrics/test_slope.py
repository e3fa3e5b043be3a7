"""The drift of a metric: exact on a line, bounded by Student's t elsewhere, and undefined where nothing can drift."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.errors import NoSamples
from pytest_comfyload.metrics.distribution import Distribution
from pytest_comfyload.metrics.time_series import slope_of
from tests.result.made import prompt, run_of

numbers = st.floats(-1e6, 1e6)


@given(numbers, numbers, st.sets(st.integers(0, 100_000), min_size=3, max_size=40))
def test_a_line_is_found_again(level: float, per_minute: float, times: set[int]) -> None:
    slope = slope_of([(time, level + per_minute * time / 60) for time in times], "x", "s")
    near = pytest.approx(per_minute, rel=1e-3, abs=0.1)
    assert float(slope) == near
    assert float(slope.lower) <= float(slope) <= float(slope.upper)


def test_by_hand() -> None:
    """y = 0, 1, 1, 2 at minutes 0 to 3: slope 0.6, s² = 0.1, t₂ = 2.920, so ± 2.920·√(0.1/5)."""
    slope = slope_of([(0.0, 0.0), (60.0, 1.0), (120.0, 1.0), (180.0, 2.0)], "x", "s")
    assert float(slope) == pytest.approx(0.6)
    assert float(slope.upper) - 0.6 == pytest.approx(2.919986 * math.sqrt(0.02))
    assert 0.6 - float(slope.lower) == pytest.approx(2.919986 * math.sqrt(0.02))
    assert (slope.name, slope.unit, slope.n, slope.lower.name) == ("x.slope", "s/min", 4, "x.slope.lower")


@pytest.mark.parametrize("n", [6, 31, 32, 60])
def test_nine_in_ten_intervals_hold_the_truth(n: int) -> None:
    rng = random.Random(n)
    held = 0
    for _ in range(1000):
        slope = slope_of([(60.0 * index, 0.5 * index + rng.gauss(0, 1)) for index in range(n)], "x", "s")
        held += float(slope.lower) <= 0.5 <= float(slope.upper)
    assert 870 <= held <= 930


def test_two_points_have_a_slope_and_no_bounds() -> None:
    slope = slope_of([(0.0, 1.0), (30.0, 2.0)], "x", "s")
    assert (float(slope), float(slope.lower), float(slope.upper)) == (2.0, -math.inf, math.inf)


@pytest.mark.parametrize("points", [[], [(1.0, 1.0)], [(1.0, 1.0), (1.0, 2.0)]])
def test_nothing_drifts_at_one_moment(points: list[tuple[float, float]]) -> None:
    slope = slope_of(points, "x", "s")
    with pytest.raises(NoSamples, match=r"x\.slope has no samples"):
        assert slope < 1
    with pytest.raises(NoSamples):
        assert slope.lower < 1


def test_a_runs_distributions_know_when() -> None:
    load = run_of(*(prompt(20.0 * index, {"KSampler": 1.0 + index}) for index in range(3)))
    assert float(load.node_time["KSampler"].slope) == pytest.approx(3.0)
    assert float(load.total_time.slope) == pytest.approx(0.0)
    assert load.node_time["KSampler"].values == (1.0, 2.0, 3.0)


def test_a_distribution_without_times_has_no_slope() -> None:
    assert Distribution("x", [1.0, 2.0]).slope.n == 0
