from __future__ import annotations

import math
import statistics
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_comfyload.errors import NoSamples, UsageError
from pytest_comfyload.metrics.distribution import Distribution

TIMES = st.lists(st.floats(0, 1e6), max_size=60)
# Percentages as people write them: at most three decimals.
PERCENTAGES = st.integers(1, 100_000).map(lambda thousandths: float(Decimal(thousandths) / 1000))


def nearest_rank(samples: list[float], q: float) -> float:
    """Return the least sample that at least q percent of the samples do not exceed: the definition, literally."""
    enough = Fraction(str(q)) / 100 * len(samples)
    return min(value for value in samples if sum(1 for other in samples if other <= value) >= enough)


@given(TIMES, st.integers(0, 20), PERCENTAGES)
@example([1.0] * 100, 0, 7.0)
@example([float(value) for value in range(1000)], 0, 99.9)
def test_percentiles_are_nearest_rank_with_failures_as_infinite(values: list[float], failed: int, q: float) -> None:
    times = Distribution("total_time", values, failed)
    samples = values + [math.inf] * failed
    if not samples:
        assert math.isnan(times.percentile(q))
        return
    assert float(times.percentile(q)) == nearest_rank(samples, q)


@given(TIMES.filter(bool), st.integers(0, 20))
def test_the_rest_is_over_successes(values: list[float], failed: int) -> None:
    times = Distribution("total_time", values, failed)
    assert float(times.mean) == pytest.approx(statistics.fmean(values))
    assert (float(times.min), float(times.max)) == (min(values), max(values))
    assert float(times.stdev) == pytest.approx(statistics.stdev(values) if len(values) > 1 else 0.0)
    assert (times.n, times.mean.n, times.p95.n) == (len(values) + failed, len(values), len(values) + failed)


def test_names_and_units() -> None:
    times = Distribution("queue_time", [1.0])
    metrics = [times.p50, times.p90, times.p95, times.p99, times.percentile(99.9), times.mean, times.max]
    names = [metric.name.removeprefix("queue_time.") for metric in metrics]
    assert names == ["p50", "p90", "p95", "p99", "p99.9", "mean", "max"]
    assert {metric.unit for metric in metrics} == {"s"}
    assert Distribution("rate", [1.0], unit="it/s").p50.unit == "it/s"


@pytest.mark.parametrize("name", ["mean", "stdev", "min", "max", "p50", "p90", "p95", "p99"])
def test_without_samples_nothing_can_be_claimed(name: str) -> None:
    with pytest.raises(NoSamples, match=rf"total_time\.{name} has no samples"):
        assert getattr(Distribution("total_time", []), name) < 12


def test_where_all_failed_percentiles_are_infinite_and_means_have_no_samples() -> None:
    times = Distribution("total_time", [], failed=3)
    assert times.p50 == math.inf
    with pytest.raises(NoSamples):
        assert times.mean < 12


@pytest.mark.parametrize("q", [0, 101, -1, 100.001, True, math.nan, math.inf, "95", None])
def test_what_is_no_percentage_is_refused(q: Any) -> None:
    with pytest.raises(UsageError, match="q is a percentage above 0 and at most 100"):
        Distribution("total_time", [1.0]).percentile(q)


def test_it_shows_itself() -> None:
    assert repr(Distribution("total_time", [])) == "<total_time: no samples>"
    assert repr(Distribution("total_time", [1.0, 2.0], 1)) == "<total_time: n=3, 1 failed, p50=2 s, p95=inf s>"
