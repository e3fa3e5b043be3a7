"""Metrics: plain numbers that know their name, unit and sample count, and report comparisons to a watcher.

Arithmetic returns plain floats: a metric is what was measured, not what was computed from it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self, cast

from pytest_comfyload.errors import NoSamples
from pytest_comfyload.metrics.assessment import COMPARE, FACT, Estimate
from pytest_comfyload.metrics.intervals import Interval

__all__ = ["Comparison", "Count", "Metric", "MetricValue", "watch_comparisons"]

# Makes pytest show a comparison that cannot be made at the line of the test.
__tracebackhide__ = True

# Called with (metric, operator as written, bound, result) right after a comparison.
Comparison = Callable[["MetricValue", str, object, bool], None]
_watcher: ContextVar[Comparison | None] = ContextVar("comparison_watcher", default=None)


@contextmanager
def watch_comparisons(watcher: Comparison) -> Iterator[None]:
    """Report every comparison of a metric in this thread to `watcher`, while the context lasts."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


class MetricValue:
    """The comparisons of a metric, mixed into a number.

    `n` is the number of samples behind the value; `absent_because` says why there are none. A comparison is not
    observed if its left operand compares itself with floats: a Decimal, a Fraction, or a float compared with a Count.
    """

    name: str
    unit: str
    n: int
    evidence: Estimate = FACT
    absent_because: str = "nothing that it is computed from was measured"

    if TYPE_CHECKING:

        def __float__(self) -> float: ...

    @property
    def interval(self) -> Interval | None:
        """The two-sided 90 % interval, infinite if the samples cannot bound the value; None for a fact."""
        return self.evidence.interval

    @property
    def lower(self) -> Metric:
        """The low end of the interval, with a confidence of 95 % on its own; for a fact, its value."""
        return self._end("lower", float(self) if self.interval is None else self.interval.lower)

    @property
    def upper(self) -> Metric:
        """The high end of the interval, with a confidence of 95 % on its own; for a fact, its value."""
        return self._end("upper", float(self) if self.interval is None else self.interval.upper)

    def _end(self, which: str, value: float) -> Metric:
        return Metric(value, f"{self.name}.{which}", self.unit, self.n)

    # Makes numpy's scalars and arrays leave comparisons and arithmetic to this class.
    __array_priority__ = 1.0

    @property
    def plain(self) -> float:
        """The number alone, as a float, or as an int for a count."""
        return int(self) if isinstance(self, int) else float(cast("Any", self))

    def __lt__(self, other: Any) -> bool:
        return self._compared("<", other)

    def __le__(self, other: Any) -> bool:
        return self._compared("<=", other)

    def __gt__(self, other: Any) -> bool:
        return self._compared(">", other)

    def __ge__(self, other: Any) -> bool:
        return self._compared(">=", other)

    def __eq__(self, other: object) -> bool:
        return self._compared("==", other)

    def __ne__(self, other: object) -> bool:
        return self._compared("!=", other)

    def _compared(self, symbol: str, other: object) -> bool:
        """Return the result of a comparison, and report it to the watcher. Raises: NoSamples."""
        for measure in (self, other):
            if isinstance(measure, MetricValue) and measure.n == 0:
                raise NoSamples(f"{measure.name} has no samples: {measure.absent_because}")
        bound = other.plain if isinstance(other, MetricValue) else other
        result = COMPARE[symbol](self.plain, bound)
        watcher = _watcher.get()
        # Only a truth value is a comparison with a bound: numpy compares an array element by element.
        if watcher is not None and (isinstance(result, bool) or getattr(result, "shape", None) == ()):
            watcher(self, symbol, bound, bool(result))
        return cast("bool", result)


def _reflected(name: str) -> Callable[[MetricValue, Any], Any]:
    apply: Callable[[Any, Any], Any] = getattr(operator, name, divmod)
    return lambda self, other: apply(other, self.plain)


# What numpy leaves to this class goes back to numpy, with a plain number.
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow"):
    setattr(MetricValue, f"__r{_name}__", _reflected(f"__{_name}__"))


class Metric(MetricValue, float):
    """A measured float in `unit`, such as s or %, from `n` samples; a fact, unless given `interval` or `evidence`."""

    # A class that defines __eq__ loses its hash.
    __hash__ = float.__hash__

    def __new__(
        cls,
        value: float,
        name: str,
        unit: str,
        n: int,
        interval: Interval | None = None,
        evidence: Estimate | None = None,
    ) -> Self:
        self = super().__new__(cls, value)
        self.name, self.unit, self.n = name, unit, n
        self.evidence = evidence or (FACT if interval is None else Estimate(interval))
        return self

    def __reduce__(self) -> tuple[type[float], tuple[float]]:
        # In other processes it is a plain number.
        return float, (float(self),)


class Count(MetricValue, int):
    """A counted int: a fact, not an estimate."""

    __hash__ = int.__hash__

    def __new__(cls, value: int, name: str, n: int) -> Count:
        self = super().__new__(cls, value)
        self.name, self.unit, self.n = name, "", n
        return self

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)
