"""Exact intervals of shares, percentiles and means, from independent samples; all are 90 %, two-sided.

Each end holds by itself at 95 %, so that an interval and a one-sided verdict agree.
Sources: C. J. Clopper and E. S. Pearson, Biometrika 26 (1934); order statistics in H. A. David, Order Statistics
(1970), ch. 2.5; the continued fraction of the incomplete beta function by W. J. Lentz (1976).
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Callable, Sequence

from pytest_comfyload.queueing.replay import Interval

__all__ = [
    "LEAST_FOR_A_MEAN", "SETTLING_SHARE", "UNBOUNDED", "at_most", "lag1_autocorrelation", "mean_interval",
    "minimum_count", "percentile_ranks", "prompts_to_settle", "rate_interval", "share_interval", "t95",
]  # fmt: skip

# What may go wrong at one end.
ALPHA = 0.05
# Below so many samples a mean need not be normal.
LEAST_FOR_A_MEAN = 30
# Of the misses that a percentile allows: with more, no affordable number of prompts settles it.
SETTLING_SHARE = 0.9
UNBOUNDED = Interval(-math.inf, math.inf)

# Student's t, 95th percentile, for 1 to 30 degrees of freedom; NIST's table.
_T95 = (
    6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771, 1.761, 1.753,
    1.746, 1.740, 1.734, 1.729, 1.725, 1.721, 1.717, 1.714, 1.711, 1.708, 1.706, 1.703, 1.701, 1.699, 1.697,
)  # fmt: skip
_Z95 = 1.6448536269514722


def at_most(k: int, n: int, share: float) -> float:
    """The probability of at most k misses among n when `share` of all miss: the tail of the binomial."""
    if k >= n or share <= 0:
        return 1.0
    if k < 0 or share >= 1:
        return 0.0
    return _incomplete_beta(n - k, k + 1, 1 - share)


def share_interval(hits: int, n: int) -> Interval:
    """Clopper and Pearson's, of the share (0–1) behind `hits` of n."""
    if n == 0:
        return Interval(0.0, 1.0)
    upper = 1.0 if hits == n else _root(lambda share: at_most(hits, n, share) - ALPHA)
    lower = 0.0 if hits == 0 else _root(lambda share: ALPHA - 1 + at_most(hits - 1, n, share))
    return Interval(lower, upper)


@functools.lru_cache(maxsize=1024)
def percentile_ranks(n: int, q: float) -> tuple[int, int]:
    """The ranks, from 1, of the order statistics that enclose percentile q; 0 and n + 1: there is none."""
    share = q / 100
    lower = _first(0, n, lambda rank: at_most(rank, n, share) > ALPHA)
    upper = _first(0, n, lambda rank: at_most(rank, n, share) >= 1 - ALPHA) + 1
    return lower, upper


def minimum_count(share: float) -> int:
    """How many samples, none of them a miss, show that at most `share` (0–1) of all miss: 59 for 0.05."""
    return max(1, math.ceil(round(math.log(ALPHA) / math.log1p(-share), 9)))


def prompts_to_settle(misses: int, n: int, share: float) -> int | None:
    """How many prompts, of which as many miss as here, show that at most `share` of all do; None: no number would."""
    if misses >= SETTLING_SHARE * share * n:
        return None
    allowed, enough = 0, minimum_count(share)
    while (seen := -(-misses * enough // n)) > allowed:
        allowed = seen
        enough = _first(enough, 100 * enough, functools.partial(_shown, allowed, share))
    return enough


def _shown(misses: int, share: float, n: int) -> bool:
    return at_most(misses, n, share) <= ALPHA


def mean_interval(values: Sequence[float]) -> Interval:
    """Student's; infinite for fewer than 30 values."""
    n = len(values)
    if n < LEAST_FOR_A_MEAN:
        return UNBOUNDED
    mean, reach = statistics.fmean(values), t95(n - 1) * statistics.stdev(values) / math.sqrt(n)
    return Interval(mean - reach, mean + reach)


def rate_interval(counts: Sequence[float], times: Sequence[float]) -> Interval:
    """Of the sum of counts over the sum of times, as factors of it: Student's, for a ratio of means."""
    n, mean = len(counts), statistics.fmean(counts or [0.0])
    if n < LEAST_FOR_A_MEAN or mean == 0:
        return UNBOUNDED
    rate = math.fsum(counts) / math.fsum(times)
    residuals = [count - rate * time for count, time in zip(counts, times, strict=True)]
    reach = t95(n - 1) * statistics.stdev(residuals) / math.sqrt(n) / mean
    return Interval(max(0.0, 1 - reach), 1 + reach)


def lag1_autocorrelation(series: Sequence[Sequence[float]]) -> float:
    """How much each value is like the one before it, over several series of deviations from their means."""
    spread = math.fsum(value * value for values in series for value in values)
    alike = math.fsum(a * b for values in series for a, b in itertools.pairwise(values))
    return alike / spread if spread else 0.0


def t95(freedom: int) -> float:
    """Student's t, 95th percentile."""
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    z, v = _Z95, freedom
    # Cornish and Fisher's expansion: exact to four digits here.
    return z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)


def _first(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The least number from `low` on that holds, `high` if none below it does; what holds goes on holding."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _root(falling: Callable[[float], float]) -> float:
    """Where a function that falls from 0 to 1 is zero."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularised, I_x(a, b)."""
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    return math.exp(a * math.log(x) + b * math.log1p(-x) - log_beta) / (a * _continued_fraction(a, b, x))


def _continued_fraction(a: float, b: float, x: float) -> float:
    tiny = 1e-300
    fraction, c, d = 1.0, 1.0, 0.0
    for step in range(1, 10_000):
        m = step // 2
        if step % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / (1 + term * d or tiny)
        c = 1 + term / c or tiny
        fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return fraction
