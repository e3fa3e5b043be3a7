"""Student's t compared with printed tables and closed forms."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.metrics.intervals import t_cdf, t_quantile


@pytest.mark.parametrize(
    ("p", "freedom", "value"),
    [(0.95, 9, 1.833), (0.99, 9, 2.821), (0.975, 1, 12.706), (0.95, 4, 2.132), (0.99, 19, 2.539), (0.95, 120, 1.658)],
)
def test_the_table(p: float, freedom: int, value: float) -> None:
    assert t_quantile(p, freedom) == pytest.approx(value, abs=5e-4)


@given(st.floats(-50, 50))
def test_one_degree_of_freedom_is_cauchys(t: float) -> None:
    assert t_cdf(t, 1) == pytest.approx(0.5 + math.atan(t) / math.pi, abs=1e-12)


@given(st.floats(-50, 50))
def test_two_degrees_of_freedom_have_a_closed_form(t: float) -> None:
    assert t_cdf(t, 2) == pytest.approx(0.5 + t / (2 * math.sqrt(2 + t * t)), abs=1e-12)


@given(st.floats(0.001, 0.999), st.integers(1, 200))
def test_a_quantile_has_its_probability_below_it(p: float, freedom: int) -> None:
    assert t_cdf(t_quantile(p, freedom), freedom) == pytest.approx(p, abs=1e-9)
