"""A distribution of times. Percentiles are nearest-rank and count failures as +∞; other statistics omit failures.

Percentiles and the mean have intervals; minimum, maximum and standard deviation are facts of this run.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence

from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics import intervals
from pytest_comfyload.metrics.assessment import FACT, Estimate
from pytest_comfyload.metrics.estimates import MeanEstimate, PercentileEstimate
from pytest_comfyload.metrics.metric import Metric
from pytest_comfyload.metrics.time_series import Slope, slope_of
from pytest_comfyload.text import harmless_line

__all__ = ["Distribution"]


class Distribution:
    """Values in seconds, or another unit, measured once per prompt.

    `failed` prompts have no value, and count as worse than any value: leaving them out would make a failing server look
    fast. `points` are (time, value) pairs in the order of measurement, if the times are known. `evidence(q, value)`
    returns the estimate behind percentile q, or behind the mean (None), if the samples depend on each other.
    """

    def __init__(
        self,
        name: str,
        values: Iterable[float],
        failed: int = 0,
        unit: str = "s",
        evidence: Callable[[float | None, float], Estimate] | None = None,
    ) -> None:
        self.name = name
        self.unit = unit
        self.values = _ascending(values)
        self._timed: tuple[Sequence[float], Sequence[float]] = ((), ())
        self.failed = failed
        self._evidence = evidence or self._independent

    @classmethod
    def over_time(
        cls,
        name: str,
        times: Sequence[float],
        values: Sequence[float],
        failed: int = 0,
        unit: str = "s",
        evidence: Callable[[float | None, float], Estimate] | None = None,
    ) -> Distribution:
        """Create a distribution from values and the times at which the prompts were due."""
        distribution = cls(name, values, failed, unit, evidence)
        distribution._timed = times, values
        return distribution

    @property
    def points(self) -> tuple[tuple[float, float], ...]:
        return tuple(zip(*self._timed, strict=True))

    @property
    def n(self) -> int:
        """Number of samples behind the percentiles, failures included."""
        return len(self.values) + self.failed

    @property
    def mean(self) -> Metric:
        mean = statistics.fmean(self.values) if self.values else math.nan
        evidence = self._evidence(None, mean) if self.values else FACT
        return Metric(mean, f"{self.name}.mean", self.unit, len(self.values), evidence=evidence)

    @property
    def stdev(self) -> Metric:
        """The standard deviation of the sample (n − 1); 0 for a single value."""
        spread = statistics.stdev(self.values) if len(self.values) > 1 else 0.0
        return self._over_successes("stdev", spread if self.values else math.nan)

    @property
    def min(self) -> Metric:
        return self._over_successes("min", self.values[0] if self.values else math.nan)

    @property
    def max(self) -> Metric:
        return self._over_successes("max", self.values[-1] if self.values else math.nan)

    @property
    def p50(self) -> Metric:
        return self.percentile(50)

    @property
    def p90(self) -> Metric:
        return self.percentile(90)

    @property
    def p95(self) -> Metric:
        return self.percentile(95)

    @property
    def p99(self) -> Metric:
        return self.percentile(99)

    @property
    def median_error(self) -> float:
        """The standard error of the median over successes, from the values around it; 0 for fewer than three values."""
        n = len(self.values)
        if n < 3:
            return 0.0
        # The standard error of the median's rank is half the square root of n.
        rank = max(1, round((n + 1) / 2 - math.sqrt(n) / 2))
        return (self.values[n - rank] - self.values[rank - 1]) / 2

    @property
    def slope(self) -> Slope:
        """Change per minute over the run, without failures, with a 90 % interval, `.slope.lower` to `.slope.upper`."""
        return slope_of(self.points, self.name, self.unit)

    def percentile(self, q: float) -> Metric:
        """Return the least value that at least q percent of the samples do not exceed (nearest rank).

        Raises: UsageError if q is not above 0 and at most 100.
        """
        if isinstance(q, bool) or not isinstance(q, int | float) or not 0 < q <= 100:
            raise UsageError(f"percentile({q!r}): q is a percentage above 0 and at most 100, such as 95")
        value = intervals.percentile_of(self.values, q, self.failed)
        # The greatest value seen is a fact, not an estimate of the greatest possible one.
        evidence = self._evidence(q, value) if q < 100 and self.n else FACT
        return Metric(value, f"{self.name}.p{q:g}", self.unit, self.n, evidence=evidence)

    def _independent(self, q: float | None, value: float) -> Estimate:
        if q is None:
            return MeanEstimate(lambda: intervals.mean_interval(self.values))
        return PercentileEstimate(self.values, self.failed, q)

    def _over_successes(self, what: str, value: float) -> Metric:
        return Metric(value, f"{self.name}.{what}", self.unit, len(self.values))

    def __repr__(self) -> str:
        name = harmless_line(self.name)
        if not self.n:
            return f"<{name}: no samples>"
        failed = f", {self.failed} failed" if self.failed else ""
        return f"<{name}: n={self.n}{failed}, p50={self.p50:.3g} {self.unit}, p95={self.p95:.3g} {self.unit}>"


# Number of values for which numpy sorts faster, conversions included.
_MANY = 10_000


def _ascending(values: Iterable[float]) -> tuple[float, ...]:
    column = list(values)
    # Only if a replay has already loaded numpy: loading it takes longer than sorting.
    if len(column) >= _MANY and (numpy := sys.modules.get("numpy")) is not None:
        column = numpy.sort(numpy.array(column, dtype=float)).tolist()
    else:
        column.sort()
    return tuple(column)
