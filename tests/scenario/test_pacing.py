"""Arrival processes are what they claim: even ones exactly, Poisson ones by statistical tests."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.errors import UsageError
from pytest_comfyload.scenario.pacing import RateStage, arrivals, expected_arrivals, format_rate, parse_rate

CONSTANT = [RateStage(20_000, 0.5, 0.5)]
RAMP = [RateStage(5_000, 0.0, 1.0), RateStage(5_000, 1.0, 0.2), RateStage(2_000, 0.2, 0.2)]


def _expected_by(stages: list[RateStage], time: float) -> float:
    """Return the integral of the rate up to a time."""
    total = 0.0
    for stage in stages:
        spent = min(max(time, 0.0), stage.duration)
        total += spent * stage.start + (stage.end - stage.start) / stage.duration * spent**2 / 2
        time -= stage.duration
    return total


def _kolmogorov_smirnov(values: list[float]) -> float:
    """Return √n times the greatest distance to the uniform distribution on [0, 1]."""
    n, ordered = len(values), sorted(values)
    distance = max(max((k + 1) / n - value, value - k / n) for k, value in enumerate(ordered))
    return math.sqrt(n) * distance


@pytest.mark.parametrize(
    ("text", "per_second"), [("6/min", 0.1), ("0.5/s", 0.5), ("90/h", 0.025), (" 30 / min ", 0.5), ("0/min", 0.0)]
)
def test_rates_are_read(text: str, per_second: float) -> None:
    assert parse_rate(text, "rate") == pytest.approx(per_second)


@pytest.mark.parametrize("text", ["6", 6, "6/year", "-1/min", "a/min", None, "", "6 per min"])
def test_what_is_no_rate(text: object) -> None:
    with pytest.raises(UsageError, match="write a number and a unit"):
        parse_rate(text, "rate")


def test_rates_are_printed_per_minute() -> None:
    assert format_rate(0.1) == "6/min"


def test_even_arrivals_at_a_constant_rate() -> None:
    assert list(arrivals([RateStage(5, 2, 2)], None)) == pytest.approx([k / 2 for k in range(10)])


stages = st.lists(st.builds(RateStage, st.floats(1, 1000), st.floats(0, 2), st.floats(0, 2)), min_size=1, max_size=3)


@given(stages)
def test_even_arrivals_come_when_one_more_is_expected(stages: list[RateStage]) -> None:
    times = list(itertools.islice(arrivals(stages, None), 200))
    assert times == sorted(times)
    for number, time in enumerate(times):
        assert _expected_by(stages, time) == pytest.approx(number, abs=1e-6 * max(1, number))
    assert len(times) == pytest.approx(min(200, expected_arrivals(stages)), abs=1)


@pytest.mark.parametrize("stages", [CONSTANT, RAMP], ids=["constant", "ramp"])
@pytest.mark.parametrize("seed", range(5))
def test_poisson_gaps_are_exponential_on_the_scale_of_the_expected_number(stages: list[RateStage], seed: int) -> None:
    times = list(arrivals(stages, random.Random(seed)))
    passed = [_expected_by(stages, time) for time in times]
    gaps = [after - before for before, after in itertools.pairwise([0.0, *passed])]
    # 1.95 is the critical value of the test at 0.1 %.
    assert _kolmogorov_smirnov([1 - math.exp(-gap) for gap in gaps]) < 1.95


@pytest.mark.parametrize("seed", range(5))
def test_poisson_counts_spread_as_their_mean(seed: int) -> None:
    times = list(arrivals(CONSTANT, random.Random(seed)))
    counts = [0] * 400
    for time in times:
        counts[int(time // 50)] += 1
    mean = sum(counts) / len(counts)
    spread = sum((count - mean) ** 2 for count in counts) / (len(counts) - 1)
    # The index of dispersion of 400 Poisson counts lies in 1 ± 0.23 in 99.9 % of cases.
    assert spread / mean == pytest.approx(1.0, abs=0.25)
    assert len(times) == pytest.approx(expected_arrivals(CONSTANT), rel=0.04)
