"""Our statistics compared with scipy's, which the package itself does not need."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.metrics.intervals import (
    at_most,
    mean_interval,
    minimum_count,
    percentile_ranks,
    share_interval,
    t_cdf,
    t_quantile,
)
from pytest_comfyload.metrics.time_series import slope_of

stats = pytest.importorskip("scipy.stats", reason="the test extra brings scipy")

_FREEDOM = st.integers(1, 2000)


@given(st.floats(1e-6, 1 - 1e-6), _FREEDOM)
def test_quantiles_of_students_t(p: float, freedom: int) -> None:
    assert t_quantile(p, freedom) == pytest.approx(float(stats.t.ppf(p, freedom)), rel=1e-6, abs=1e-7)


@given(st.floats(-40, 40), _FREEDOM)
def test_students_t(t: float, freedom: int) -> None:
    assert t_cdf(t, freedom) == pytest.approx(float(stats.t.cdf(t, freedom)), abs=1e-10)


@given(st.integers(0, 500), st.integers(1, 500), st.floats(0, 1))
def test_the_tail_of_the_binomial(k: int, n: int, share: float) -> None:
    assert at_most(k, n, share) == pytest.approx(float(stats.binom.cdf(k, n, share)), abs=1e-10)


@given(st.integers(1, 500), st.floats(0, 1))
def test_the_interval_of_a_share_is_clopper_and_pearsons(n: int, part: float) -> None:
    hits = round(n * part)
    theirs = stats.binomtest(hits, n).proportion_ci(0.9, method="exact")
    assert tuple(share_interval(hits, n)) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@given(st.integers(1, 400), st.sampled_from([50, 90, 95, 99]))
def test_ranks_enclose_a_percentile_with_their_confidence(n: int, q: int) -> None:
    """The percentile lies below order statistic r with the probability that fewer than r values are below it."""
    lower, upper = percentile_ranks(n, q)
    below, above = stats.binom.cdf(lower - 1, n, q / 100), stats.binom.sf(upper - 1, n, q / 100)
    assert below <= 0.05 + 1e-12
    assert above <= 0.05 + 1e-12
    # The next rank would be too close to the percentile.
    assert stats.binom.cdf(lower, n, q / 100) > 0.05


@pytest.mark.parametrize(("share", "least"), [(0.05, 59), (0.01, 299), (0.5, 5)])
def test_the_least_number_without_a_miss(share: float, least: int) -> None:
    assert minimum_count(share) == least
    assert stats.binom.pmf(0, least, share) <= 0.05 < stats.binom.pmf(0, least - 1, share)


@given(st.integers(30, 200), st.integers(0, 2**32))
def test_the_interval_of_a_mean(n: int, seed: int) -> None:
    values = [random.Random(seed + k).lognormvariate(0, 1) for k in range(n)]
    spread = statistics.stdev(values) / math.sqrt(n)
    theirs = stats.t.interval(0.9, n - 1, loc=statistics.fmean(values), scale=spread)
    assert tuple(mean_interval(values)) == pytest.approx(tuple(map(float, theirs)), rel=1e-6)


@given(st.integers(3, 60), st.integers(0, 2**32))
def test_the_slope_and_its_interval(n: int, seed: int) -> None:
    rng = random.Random(seed)
    points = [(float(k), 0.3 * k + rng.gauss(0, 1)) for k in range(n)]
    ours, theirs = slope_of(points, "x", "B"), stats.linregress(*zip(*points, strict=True))
    assert float(ours) == pytest.approx(60 * theirs.slope, rel=1e-9)
    reach = 60 * theirs.stderr * float(stats.t.ppf(0.95, n - 2))
    assert (ours.upper - ours.lower) / 2 == pytest.approx(reach, rel=1e-5)
