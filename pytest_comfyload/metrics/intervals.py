"""Exact 90 % intervals of shares, percentiles and means of independent samples, and the distributions behind them.

Each end alone has a confidence of 95 %, so that an interval and a one-sided verdict agree. Sources: C. J. Clopper and
E. S. Pearson, Biometrika 26 (1934); order statistics in H. A. David, Order Statistics (1970), ch. 2.5.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

__all__ = [
    "LEAST_FOR_A_MEAN",
    "SETTLING_SHARE",
    "UNBOUNDED",
    "Interval",
    "at_most",
    "incomplete_beta",
    "lag1_autocorrelation",
    "mean_interval",
    "minimum_count",
    "nearest_rank",
    "percentile",
    "percentile_of",
    "percentile_ranks",
    "prompts_to_settle",
    "rate_interval",
    "share_interval",
    "t_cdf",
    "t_quantile",
    "weighted_percentile",
]


class Interval(NamedTuple):
    """A closed interval."""

    lower: float
    upper: float

    def covers(self, value: float) -> bool:
        return self.lower <= value <= self.upper


# The error probability of each end.
ALPHA = 0.05
# With fewer samples, a mean need not be normally distributed.
LEAST_FOR_A_MEAN = 30
# Share of the misses that a percentile allows; with more, no affordable number of prompts settles the claim.
SETTLING_SHARE = 0.9
UNBOUNDED = Interval(-math.inf, math.inf)


def nearest_rank(q: float, n: int) -> int:
    """Return the rank, from 1, of the least of n values that at least q percent do not exceed."""
    # Rounded first: 0.07 × 100 is 7.000000000000001, whose ceiling is one rank too high.
    return max(1, math.ceil(round(q * n / 100, 9)))


def percentile(values: Iterable[float], q: float) -> float:
    """Return the least value that at least q percent do not exceed (nearest rank); nan without values."""
    return percentile_of(sorted(values), q)


def percentile_of(ordered: Sequence[float], q: float, failed: int = 0) -> float:
    """Return the percentile of sorted values that are followed by `failed` values of +∞."""
    rank = nearest_rank(q, len(ordered) + failed)
    if rank <= len(ordered):
        return ordered[rank - 1]
    return math.inf if failed else math.nan


def weighted_percentile(weighted: Iterable[tuple[float, float]], q: float) -> float:
    """Return the least value such that values up to it have at least q percent of the weight; nan without values.

    Args:
        weighted: Values and their weights, none below 0, such as time spans or frequencies.
        q: The percentage, 0–100.
    """
    ordered = sorted(weighted)
    enough, passed = q / 100 * math.fsum(weight for _, weight in ordered), 0.0
    for value, weight in ordered:
        passed += weight
        # A sum of weights is subject to rounding.
        if passed >= enough * (1 - 1e-9):
            return value
    return ordered[-1][0] if ordered else math.nan


def at_most(k: int, n: int, share: float) -> float:
    """Return the probability of at most k misses among n if `share` of all miss: the lower tail of the binomial."""
    if k >= n or share <= 0:
        return 1.0
    if k < 0 or share >= 1:
        return 0.0
    return incomplete_beta(n - k, k + 1, 1 - share)


def share_interval(hits: int, n: int) -> Interval:
    """Return the Clopper–Pearson interval of the share (0–1) behind `hits` of n."""
    if n == 0:
        return Interval(0.0, 1.0)
    upper = 1.0 if hits == n else _root(lambda share: at_most(hits, n, share) - ALPHA)
    lower = 0.0 if hits == 0 else _root(lambda share: ALPHA - 1 + at_most(hits - 1, n, share))
    return Interval(lower, upper)


@functools.lru_cache(maxsize=1024)
def percentile_ranks(n: int, q: float) -> tuple[int, int]:
    """Return the ranks, from 1, of the order statistics that enclose percentile q; 0 or n + 1 if there is none."""
    share = q / 100
    lower = _first(0, n, lambda rank: at_most(rank, n, share) > ALPHA)
    upper = _first(0, n, lambda rank: at_most(rank, n, share) >= 1 - ALPHA) + 1
    return lower, upper


def minimum_count(share: float) -> int:
    """Return how many samples, without a miss, show that at most `share` (0–1) of all miss: 59 for 0.05."""
    return max(1, math.ceil(round(math.log(ALPHA) / math.log1p(-share), 9)))


def prompts_to_settle(misses: int, n: int, share: float) -> int | None:
    """Return how many prompts, with the same share of misses as here, show that at most `share` of all miss.

    None if no affordable number would.
    """
    if misses >= round(SETTLING_SHARE * share * n, 9):
        return None
    allowed, enough = 0, minimum_count(share)
    while (seen := -(-misses * enough // n)) > allowed:
        allowed = seen
        enough = _first(enough, 100 * enough, functools.partial(_shown, allowed, share))
    return enough


def _shown(misses: int, share: float, n: int) -> bool:
    return at_most(misses, n, share) <= ALPHA


def mean_interval(values: Sequence[float]) -> Interval:
    """Return Student's interval of the mean; infinite for fewer than 30 values."""
    n = len(values)
    if n < LEAST_FOR_A_MEAN:
        return UNBOUNDED
    mean, reach = statistics.fmean(values), t_quantile(1 - ALPHA, n - 1) * statistics.stdev(values) / math.sqrt(n)
    return Interval(mean - reach, mean + reach)


def rate_interval(counts: Sequence[float], times: Sequence[float]) -> Interval:
    """Return the interval of the sum of counts over the sum of times, as factors of that rate.

    Student's, for a ratio of means; infinite for fewer than 30 counts.
    """
    n, mean = len(counts), statistics.fmean(counts or [0.0])
    if n < LEAST_FOR_A_MEAN or mean == 0:
        return UNBOUNDED
    rate = math.fsum(counts) / math.fsum(times)
    residuals = [count - rate * time for count, time in zip(counts, times, strict=True)]
    reach = t_quantile(1 - ALPHA, n - 1) * statistics.stdev(residuals) / math.sqrt(n) / mean
    return Interval(max(0.0, 1 - reach), 1 + reach)


def lag1_autocorrelation(series: Sequence[Sequence[float]]) -> float:
    """Return how much each value resembles the one before it, over several series of deviations from their means."""
    spread = math.fsum(value * value for values in series for value in values)
    alike = math.fsum(a * b for values in series for a, b in itertools.pairwise(values))
    return alike / spread if spread else 0.0


def _first(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """Return the least number in `low` to `high` for which `holds` is true; `high` if there is none below it.

    `holds` must be monotonic: once true, it stays true.
    """
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _root(falling: Callable[[float], float]) -> float:
    """Return the zero, from 0 to 1, of a decreasing function."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


_TINY = 1e-300


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularized incomplete beta function I_x(a, b), for positive a and b."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        # At the mirrored argument, the continued fraction converges fast.
        return 1 - incomplete_beta(b, a, 1 - x)
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    return math.exp(a * math.log(x) + b * math.log1p(-x) - log_beta) / (a * _continued_fraction(a, b, x))


def _continued_fraction(a: float, b: float, x: float) -> float:
    fraction, c, d = 1.0, 1.0, 0.0
    for step in range(1, 10_000):
        m = step // 2
        if step % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / (1 + term * d or _TINY)
        c = 1 + term / c or _TINY
        fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return fraction


@functools.cache
def t_quantile(p: float, freedom: float) -> float:
    """Return the p-quantile of Student's t distribution, for `p` strictly between 0 and 1."""
    if p < 0.5:
        return -t_quantile(1 - p, freedom)
    low, high = 0.0, 1.0
    while t_cdf(high, freedom) < p:
        low, high = high, 2 * high
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, freedom) < p else (low, middle)
    return (low + high) / 2


def t_cdf(t: float, freedom: float) -> float:
    """Return P(T ≤ t) of Student's t distribution. T² / (v + T²) is beta distributed (DLMF 8.17)."""
    share = t * t / (freedom + t * t)
    if share < 0.5:
        # Near the middle, computing from the tail would lose digits.
        half = incomplete_beta(0.5, freedom / 2, share) / 2
        return 0.5 + half if t > 0 else 0.5 - half
    tail = incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t)) / 2
    return 1 - tail if t > 0 else tail
