"""Distributions for pauses and inputs: as users write them, and truncated to a legal range."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeVar

from pytest_comfyload.errors import UsageError

if TYPE_CHECKING:
    from statistics import NormalDist

__all__ = [
    "Curve",
    "DistributionSpec",
    "Exponential",
    "Flat",
    "Lognormal",
    "Normal",
    "Number",
    "TruncatedDistribution",
    "exponential",
    "lognormal",
    "normal",
    "uniform",
]

Number = float | str
_Z95 = 1.6448536269514722
_BOUNDS = ("min", "max")


def uniform(low: Number, high: Number) -> DistributionSpec:
    """Draw numbers from `low` to `high` with equal probability; whole numbers include both ends."""
    return DistributionSpec(_uniform, (("low", low), ("high", high)))


def normal(mean: Number, stdev: Number, *, min: Number | None = None, max: Number | None = None) -> DistributionSpec:
    """Draw from a normal distribution, truncated to the range from `min` to `max`."""
    return DistributionSpec(_normal, (("mean", mean), ("stdev", stdev), *_bounds(min, max)))


def lognormal(median: Number, p95: Number, *, min: Number | None = None, max: Number | None = None) -> DistributionSpec:
    """Draw from a lognormal distribution, whose long tail suits human delays; 95 % of it is below `p95`."""
    return DistributionSpec(_lognormal, (("median", median), ("p95", p95), *_bounds(min, max)))


def exponential(mean: Number, *, min: Number | None = None, max: Number | None = None) -> DistributionSpec:
    """Draw from an exponential distribution, as of pauses between random events, truncated to `min` and `max`."""
    return DistributionSpec(_exponential, (("mean", mean), *_bounds(min, max)))


@dataclass(frozen=True, slots=True)
class DistributionSpec:
    """A distribution as the user wrote it. Numbers are durations for `think_time` (5, "5s"), but plain for an input."""

    build: Callable[..., TruncatedDistribution]
    parameters: tuple[tuple[str, Number], ...]

    def read(self, number: Callable[[object, str], float]) -> TruncatedDistribution:
        """Build the distribution; `number` reads the value of a parameter. Raises UsageError, naming the parameter."""
        return self.build(**{name: number(value, name) for name, value in self.parameters})

    def written(self, number: Callable[[Number], str]) -> str:
        """Format it as a call, with each parameter formatted by `number`."""
        shown = [f"{name}={number(value)}" if name in _BOUNDS else number(value) for name, value in self.parameters]
        return f"{self.build.__name__.removeprefix('_')}({', '.join(shown)})"

    def __repr__(self) -> str:
        return self.written(repr)


def _bounds(low: Number | None, high: Number | None) -> tuple[tuple[str, Number], ...]:
    return tuple((name, value) for name, value in zip(_BOUNDS, (low, high), strict=True) if value is not None)


def _uniform(low: float, high: float) -> TruncatedDistribution:
    _expect(low <= high, f"low={low:g} is above high={high:g}")
    return TruncatedDistribution(low, high, Flat())


def _normal(mean: float, stdev: float, min: float = -math.inf, max: float = math.inf) -> TruncatedDistribution:
    _expect(stdev > 0, f"stdev={stdev:g} must be above 0")
    return _bounded(Normal(mean, stdev), min, max)


def _lognormal(median: float, p95: float, min: float = 0.0, max: float = math.inf) -> TruncatedDistribution:
    _expect(median > 0, f"median={median:g} must be above 0")
    _expect(p95 > median, f"p95={p95:g} must be above the median, {median:g}")
    return _bounded(Lognormal(median, math.log(p95 / median) / _Z95), min, max)


def _exponential(mean: float, min: float = 0.0, max: float = math.inf) -> TruncatedDistribution:
    _expect(mean > 0, f"mean={mean:g} must be above 0")
    return _bounded(Exponential(mean), min, max)


def _bounded(curve: Curve, low: float, high: float) -> TruncatedDistribution:
    law = TruncatedDistribution(low, high, curve)
    _expect(low < high, f"min={low:g} must be below max={high:g}")
    _expect(law.possible, f"almost none of its values lie from {low:g} to {high:g}; move min or max")
    return law


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise UsageError(otherwise)


# A range with a smaller share of its curve is a mistake, and too small for the precision of a float.
LEAST_SHARE = 1e-6
_AnyLaw = TypeVar("_AnyLaw", bound="TruncatedDistribution")


class Curve(Protocol):
    """A density with the total amount `whole`, by its integrals."""

    whole: float

    def below(self, x: float) -> float:
        """Return the amount below `x`: the cumulative distribution function."""

    def quantile(self, amount: float) -> float:
        """Return the number below which `amount` lies; inverse of `below`."""

    def weight(self, x: float) -> float:
        """Return the integral of t times the density up to `x`, plus some constant."""


@dataclass(frozen=True, slots=True)
class Flat:
    """A constant density without bounds; its `whole` is 0, so no range of it has too small a share."""

    whole = 0.0

    def below(self, x: float) -> float:
        return x

    def quantile(self, amount: float) -> float:
        return amount

    def weight(self, x: float) -> float:
        return x * x / 2


@dataclass(frozen=True, slots=True)
class Normal:
    mean: float
    stdev: float

    whole = 1.0

    def below(self, x: float) -> float:
        return _standard().cdf((x - self.mean) / self.stdev)

    def quantile(self, amount: float) -> float:
        return self.mean + self.stdev * _standard().inv_cdf(_inside(amount))

    def weight(self, x: float) -> float:
        return self.mean * self.below(x) - self.stdev * _standard().pdf((x - self.mean) / self.stdev)


@dataclass(frozen=True, slots=True)
class Lognormal:
    """A distribution whose logarithm is normal with standard deviation `sigma`."""

    median: float
    sigma: float

    whole = 1.0

    def below(self, x: float) -> float:
        return _standard().cdf(self._deviations(x))

    def quantile(self, amount: float) -> float:
        return self.median * _exp(self.sigma * _standard().inv_cdf(_inside(amount)))

    def weight(self, x: float) -> float:
        mean = self.median * _exp(self.sigma**2 / 2)
        return mean * _standard().cdf(self._deviations(x) - self.sigma)

    def _deviations(self, x: float) -> float:
        ratio = x / self.median  # underflows to 0 for the smallest numbers
        return (math.log(ratio) if ratio > 0 else -math.inf) / self.sigma


@dataclass(frozen=True, slots=True)
class Exponential:
    mean: float

    whole = 1.0

    def below(self, x: float) -> float:
        return -math.expm1(-max(x, 0.0) / self.mean)

    def quantile(self, amount: float) -> float:
        return -self.mean * math.log1p(-_inside(amount))

    def weight(self, x: float) -> float:
        return self.mean if x == math.inf else self.mean - (max(x, 0.0) + self.mean) * (1 - self.below(x))


@dataclass(frozen=True, slots=True)
class TruncatedDistribution:
    """Numbers from `low` to `high`, distributed by `curve`; a constant if both are equal."""

    low: float = 0.0
    high: float = 0.0
    curve: Curve = Flat()

    def draw(self, rng: random.Random) -> float:
        return self._at(rng.random())

    @property
    def median(self) -> float:
        return self._at(0.5)

    @property
    def mean(self) -> float:
        if self.low == self.high:
            return self.low
        return (self.curve.weight(self.high) - self.curve.weight(self.low)) / self._amount

    @property
    def possible(self) -> bool:
        """Whether `low` and `high` are in order and contain a non-negligible share of the curve."""
        return self.low <= self.high and self._amount >= LEAST_SHARE * self.curve.whole

    def between(self: _AnyLaw, low: float, high: float) -> _AnyLaw:
        """Return the same curve, truncated to another range."""
        return replace(self, low=low, high=high)

    def _at(self, share: float) -> float:
        """Return the quantile of the truncated distribution at `share`."""
        number = self.curve.quantile(self.curve.below(self.low) + share * self._amount)
        return min(max(number, self.low), self.high)

    @property
    def _amount(self) -> float:
        return self.curve.below(self.high) - self.curve.below(self.low)


@functools.cache
def _standard() -> NormalDist:
    # The import takes six milliseconds, which most test runs can save.
    from statistics import NormalDist

    return NormalDist()


def _inside(amount: float) -> float:
    """Clamp an amount between 0 and 1, whose quantiles are infinite."""
    return min(max(amount, 2.0**-53), 1 - 2.0**-53)


def _exp(power: float) -> float:
    return math.exp(power) if power < 700 else math.inf
