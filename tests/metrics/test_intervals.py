"""The intervals agree with published tables, and cover the truth as often as they claim."""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.metrics.intervals import (
    UNBOUNDED,
    Interval,
    at_most,
    lag1_autocorrelation,
    mean_interval,
    minimum_count,
    percentile,
    percentile_of,
    percentile_ranks,
    prompts_to_settle,
    rate_interval,
    share_interval,
    weighted_percentile,
)

SHARES = st.floats(0.001, 0.999)


def _tail(k: int, n: int, share: float) -> float:
    return math.fsum(math.comb(n, i) * share**i * (1 - share) ** (n - i) for i in range(k + 1))


@given(st.integers(1, 200), st.data(), SHARES)
def test_the_binomial_tail_is_its_sum(n: int, data: st.DataObject, share: float) -> None:
    k = data.draw(st.integers(0, n))
    assert at_most(k, n, share) == pytest.approx(_tail(k, n, share), abs=1e-10)


def test_the_binomial_tail_at_its_ends() -> None:
    assert (at_most(-1, 5, 0.5), at_most(5, 5, 0.5), at_most(2, 5, 0.0), at_most(2, 5, 1.0)) == (0, 1, 1, 0)


# LoadGen's early stopping: the number of prompts that a claim needs when 0, 1, 2 or 3 of them exceed its bound.
@pytest.mark.parametrize(
    ("share", "confidence", "counts"),
    [
        (0.10, 0.95, (29, 46, 61, 76)),
        (0.10, 0.99, (44, 64, 81, 97)),
        (0.05, 0.95, (59, 93, 124, 153)),
        (0.05, 0.99, (90, 130, 165, 198)),
        (0.01, 0.95, (299, 473, 628, 773)),
        (0.01, 0.99, (459, 662, 838, 1001)),
    ],
)
def test_mlperfs_early_stopping_table(share: float, confidence: float, counts: tuple[int, ...]) -> None:
    for over, n in enumerate(counts):
        assert at_most(over, n, share) <= 1 - confidence < at_most(over, n - 1, share)


def test_minimum_counts() -> None:
    assert [minimum_count(share) for share in (0.5, 0.1, 0.05, 0.01)] == [5, 29, 59, 299]


# Clopper and Pearson's intervals, 90 %: the closed forms for no hits and all hits, R's binom.test for the rest.
@pytest.mark.parametrize(
    ("hits", "n", "lower", "upper"),
    [
        (0, 15, 0.0, 1 - 0.05 ** (1 / 15)),
        (15, 15, 0.05 ** (1 / 15), 1.0),
        (5, 10, 0.2224411, 0.7775589),
        (1, 10, 0.0051162, 0.3941633),
        (0, 0, 0.0, 1.0),
    ],
)
def test_clopper_and_pearson(hits: int, n: int, lower: float, upper: float) -> None:
    assert share_interval(hits, n) == pytest.approx(Interval(lower, upper), abs=1e-6)


def test_published_ranks() -> None:
    """P95 of 100 samples lies between the 91st and the 99th; 59 samples bound it from above, 58 do not."""
    assert percentile_ranks(100, 95) == (91, 99)
    assert percentile_ranks(200, 95)[1] == 196
    assert [percentile_ranks(n, 95)[1] <= n for n in (58, 59)] == [False, True]
    assert [percentile_ranks(n, 99)[1] <= n for n in (298, 299)] == [False, True]
    assert [percentile_ranks(n, 50)[0] for n in (4, 5)] == [0, 1]


@given(st.integers(1, 400), st.integers(1, 98), st.integers(1, 98))
def test_ranks_rise_with_the_percentile_and_enclose_it(n: int, one: int, other: int) -> None:
    low, high = sorted((one, other))
    below, above = percentile_ranks(n, low), percentile_ranks(n, high)
    assert below[0] <= above[0]
    assert below[1] <= above[1]
    assert below[0] <= max(1, math.ceil(n * low / 100)) <= below[1]


@given(st.integers(1, 300), st.data())
def test_a_share_interval_holds_the_share_and_rises_with_it(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n - 1))
    lower, upper = share_interval(hits, n)
    assert lower <= hits / n <= upper
    more = share_interval(hits + 1, n)
    assert lower < more.lower
    assert upper <= more.upper


@given(st.integers(1, 30), st.data())
def test_more_samples_nest(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    few, many = share_interval(hits, n), share_interval(10 * hits, 10 * n)
    assert few.lower <= many.lower + 1e-12
    assert many.upper <= few.upper + 1e-12


def test_prompts_to_settle_at_the_same_share() -> None:
    assert prompts_to_settle(0, 60, 0.05) == 59
    assert prompts_to_settle(1, 60, 0.05) == 153  # three misses; 124 suffice with two, but 1 of 60 is a larger share
    assert prompts_to_settle(1, 100, 0.05) == 93
    assert prompts_to_settle(3, 60, 0.05) is None  # exactly the 5 % that P95 allows
    assert prompts_to_settle(45, 1000, 0.05) is None  # 4.5 %: too close to 5 %
    assert prompts_to_settle(44, 1000, 0.05) == 3659


@given(st.integers(0, 20), st.integers(20, 600), st.sampled_from([0.5, 0.1, 0.05]))
def test_what_settles_it_does(misses: int, n: int, share: float) -> None:
    enough = prompts_to_settle(misses, n, share)
    if enough is None:
        assert misses / n >= 0.9 * share - 1e-12
    else:
        assert at_most(math.ceil(misses * enough / n - 1e-9), enough, share) <= 0.05


def test_a_mean_by_hand() -> None:
    """1 to 30: mean 15.5, s² = 77.5, t₂₉ = 1.699127."""
    interval = mean_interval(range(1, 31))
    assert interval.upper - 15.5 == pytest.approx(1.699127 * math.sqrt(77.5 / 30))
    assert 15.5 - interval.lower == pytest.approx(1.699127 * math.sqrt(77.5 / 30))
    assert mean_interval(range(29)) == UNBOUNDED


def test_a_rate_of_equal_counts_goes_by_the_times() -> None:
    times = [float(time) for time in range(1, 31)]
    reach = 1.699127 * math.sqrt(77.5 / 30) / 15.5
    assert tuple(rate_interval([2.0] * 30, times)) == pytest.approx((1 - reach, 1 + reach))
    assert rate_interval([1.0] * 29, times[:29]) == UNBOUNDED
    assert rate_interval([0.0] * 30, times) == UNBOUNDED


def test_autocorrelation() -> None:
    assert lag1_autocorrelation([[1.0, -1.0, 1.0, -1.0]]) == -0.75
    assert lag1_autocorrelation([[1.0, 1.0], [-1.0, -1.0]]) == 0.5  # no pair spans two series
    assert lag1_autocorrelation([[], [0.0]]) == 0.0


def _coverage(trial: Callable[[random.Random], tuple[Interval, float]], trials: int = 1000) -> tuple[float, float]:
    """Return how often each end is on its side of the truth, as shares of 1."""
    rng = random.Random(11)
    low = high = 0
    for _ in range(trials):
        interval, truth = trial(rng)
        low += interval.lower <= truth
        high += truth <= interval.upper
    return low / trials, high / trials


@pytest.mark.parametrize(("n", "q"), [(60, 95), (100, 95), (300, 99), (20, 50), (100, 50)])
def test_percentiles_are_covered_at_95_percent_on_either_side(n: int, q: float) -> None:
    lower, upper = percentile_ranks(n, q)

    def trial(rng: random.Random) -> tuple[Interval, float]:
        values = sorted(rng.random() for _ in range(n))
        return Interval(values[lower - 1], values[upper - 1]), q / 100

    assert min(_coverage(trial)) >= 0.95 - 0.02


@pytest.mark.parametrize(("n", "share"), [(15, 0.9), (60, 0.95), (300, 0.99), (40, 0.5)])
def test_shares_are_covered_at_95_percent_on_either_side(n: int, share: float) -> None:
    intervals = [share_interval(hits, n) for hits in range(n + 1)]

    def trial(rng: random.Random) -> tuple[Interval, float]:
        return intervals[sum(rng.random() < share for _ in range(n))], share

    assert min(_coverage(trial)) >= 0.95 - 0.02


@pytest.mark.parametrize(("n", "cv"), [(30, 0.1), (30, 0.3), (100, 0.3)])
def test_means_are_covered_at_95_percent_on_either_side(n: int, cv: float) -> None:
    def trial(rng: random.Random) -> tuple[Interval, float]:
        spread = math.sqrt(math.log1p(cv * cv))
        return mean_interval([rng.lognormvariate(-spread * spread / 2, spread) for _ in range(n)]), 1.0

    # With skewed times, the upper end is a little too low.
    lower, upper = _coverage(trial)
    assert 0.94 <= lower <= 0.985
    assert 0.90 <= upper <= 0.965


def test_rates_are_covered_at_95_percent_on_either_side() -> None:
    """One prompt in ten fails and takes half as long, so the true rate is 0.9 successes in 0.95 s."""

    def trial(rng: random.Random) -> tuple[Interval, float]:
        good = [rng.random() < 0.9 for _ in range(100)]
        times = [rng.gauss(1, 0.2) * (1 if each else 0.5) for each in good]
        rate = sum(good) / math.fsum(times)
        lower, upper = rate_interval(list(map(float, good)), times)
        return Interval(rate * lower, rate * upper), 0.9 / 0.95

    assert statistics.fmean(_coverage(trial)) == pytest.approx(0.95, abs=0.02)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.integers(1, 100))
def test_a_percentile_of_equal_weights_is_the_nearest_rank(values: list[float], q: int) -> None:
    assert weighted_percentile([(value, 1) for value in values], q) == percentile(values, q)
    assert weighted_percentile(Counter(values).items(), q) == percentile(values, q)


def test_a_weight_is_how_often_a_value_counts() -> None:
    assert [weighted_percentile([(3, 1), (1, 8), (2, 1)], q) for q in (80, 81, 90, 91)] == [1, 2, 2, 3]
    assert math.isnan(weighted_percentile([], 50))


def test_those_that_failed_come_after_all_values() -> None:
    assert [percentile_of([1.0, 2.0], q, failed=2) for q in (25, 50, 51)] == [1.0, 2.0, math.inf]
    assert math.isnan(percentile_of([], 50))
