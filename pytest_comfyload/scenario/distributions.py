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
    """Draw every number from `low` to `high` with the same probability; of whole numbers, both ends included."""
    return DistributionSpec(_uniform, (("low", low), ("high", high)))


def normal(mean: Number, stdev: Number, *, min: Number | None = None, max: Number | None = None) -> DistributionSpec:
    """The bell curve; only the part of it from `min` to `max` is drawn from."""
    return DistributionSpec(_normal, (("mean", mean), ("stdev", stdev), *_bounds(min, max)))


def lognormal(median: Number, p95: Number, *, min: Number | None = None, max: Number | None = None) -> DistributionSpec:
    """Half of the numbers are below `median` and 95 % below `p95`, with a long tail: how long people take."""
    return DistributionSpec(_lognormal, (("median", median), ("p95", p95), *_bounds(min, max)))


def exponential(mean: Number, *, min: Number | None = None, max: Number | None = None) -> DistributionSpec:
    """The pauses between events that come at random; only the part from `min` to `max` is drawn from."""
    return DistributionSpec(_exponential, (("mean", mean), *_bounds(min, max)))


@dataclass(frozen=True, slots=True)
class DistributionSpec:
    """What the user wrote. For `think_time` its numbers are durations (5, "5s"), for an input plain numbers."""

    build: Callable[..., TruncatedDistribution]
    parameters: tuple[tuple[str, Number], ...]

    def read(self, number: Callable[[object, str], float]) -> TruncatedDistribution:
        """Its law; `number` reads the value of a parameter. Raises UsageError that names the parameter."""
        return self.build(**{name: number(value, name) for name, value in self.parameters})

    def written(self, number: Callable[[Number], str]) -> str:
        """Write it as a call, each parameter shown by `number`."""
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


# A part with a smaller share of its curve is a mistake, and beyond the precision of a float.
LEAST_SHARE = 1e-6
_AnyLaw = TypeVar("_AnyLaw", bound="TruncatedDistribution")


class Curve(Protocol):
    """How much of the whole lies where."""

    whole: float

    def below(self, x: float) -> float:
        """Return how much lies below `x`."""

    def quantile(self, amount: float) -> float:
        """The number that `amount` lies below."""

    def weight(self, x: float) -> float:
        """The sum of the numbers below `x`, each by its chance."""


@dataclass(frozen=True, slots=True)
class Flat:
    """The same everywhere and without an end, so that no part of it is too small a share."""

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
    """Its logarithm is normal with standard deviation `sigma`."""

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
        ratio = x / self.median  # of the smallest numbers 0
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
    """Numbers from `low` to `high`, as likely as `curve` says; one number where both are the same."""

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
        """Whether `low` and `high` are in order and hold a share of the curve that is worth speaking of."""
        return self.low <= self.high and self._amount >= LEAST_SHARE * self.curve.whole

    def between(self: _AnyLaw, low: float, high: float) -> _AnyLaw:
        """The same curve, another part."""
        return replace(self, low=low, high=high)

    def _at(self, share: float) -> float:
        """The number that this share of what may be drawn lies below."""
        number = self.curve.quantile(self.curve.below(self.low) + share * self._amount)
        return min(max(number, self.low), self.high)

    @property
    def _amount(self) -> float:
        return self.curve.below(self.high) - self.curve.below(self.low)


@functools.cache
def _standard() -> NormalDist:
    # Six milliseconds that most test runs need not spend.
    from statistics import NormalDist

    return NormalDist()


def _inside(amount: float) -> float:
    """Neither none of the whole nor all of it, which lie infinitely far away."""
    return min(max(amount, 2.0**-53), 1 - 2.0**-53)


def _exp(power: float) -> float:
    return math.exp(power) if power < 700 else math.inf
