"""A law of chance is a curve and the part of it that is drawn from: nothing outside it ever comes, nothing piles up at
its ends.
"""

from __future__ import annotations

import functools
import math
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from statistics import NormalDist

__all__ = ["Curve", "Exponential", "Flat", "Law", "Lognormal", "Normal"]

# A part with a smaller share of its curve is a mistake, and beyond the precision of a float.
LEAST_SHARE = 1e-6
_AnyLaw = TypeVar("_AnyLaw", bound="Law")


class Curve(Protocol):
    """How much of the whole lies where."""

    whole: float

    def below(self, x: float) -> float:
        """How much lies below `x`."""

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
class Law:
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
