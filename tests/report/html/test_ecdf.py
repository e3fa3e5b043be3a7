"""The axis and the ticks of a distribution's drawing, for any times that a stored file may hold."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.report.html.ecdf import _Axis
from pytest_comfyload.report.html.lane_paths import WIDTH, round_ticks

TIMES = st.floats(-1e300, 1e300, allow_subnormal=False)


@given(st.lists(TIMES, min_size=1, max_size=5))
def test_the_axis_holds_all_times(times: list[float]) -> None:
    axis = _Axis.over(times)
    assert axis.low < axis.high
    assert all(0 <= axis.x(time) <= WIDTH for time in times)


def test_the_axis_of_real_times_does_not_go_below_0() -> None:
    assert _Axis.over([0.1, 12.0]).low == 0
    assert _Axis.over([5.0]) == _Axis(4.5, 5.5)


@given(TIMES, TIMES)
def test_ticks_are_few_and_within_the_range(low: float, high: float) -> None:
    ticks = list(round_ticks(low, high))
    assert len(ticks) <= 6
    rounding = 1e-9 * (high - low)
    assert all(low - rounding <= tick <= high + rounding for tick in ticks)


@pytest.mark.parametrize(("low", "high"), [(0.0, -0.11), (1.0, 1.0), (0.0, math.inf), (-1.7e308, 1.7e308)])
def test_an_empty_or_infinite_range_has_no_ticks(low: float, high: float) -> None:
    assert list(round_ticks(low, high)) == []
