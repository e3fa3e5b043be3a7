"""Distributions as users write them, for pauses and inputs: unread until somebody knows what their numbers mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from pytest_comfyload.errors import UsageError
from pytest_comfyload.scenario.law import Curve, Exponential, Flat, Law, Lognormal, Normal

__all__ = ["Distribution", "Number", "exponential", "lognormal", "normal", "uniform"]

Number = float | str
_Z95 = 1.6448536269514722
_BOUNDS = ("min", "max")


def uniform(low: Number, high: Number) -> Distribution:
    """Every number from `low` to `high` is as likely; of whole numbers both ends are among them."""
    return Distribution(_uniform, (("low", low), ("high", high)))


def normal(mean: Number, stdev: Number, *, min: Number | None = None, max: Number | None = None) -> Distribution:
    """The bell curve; only the part of it from `min` to `max` is drawn from."""
    return Distribution(_normal, (("mean", mean), ("stdev", stdev), *_bounds(min, max)))


def lognormal(median: Number, p95: Number, *, min: Number | None = None, max: Number | None = None) -> Distribution:
    """Half of the numbers are below `median` and 95 % below `p95`, with a long tail: how long people take."""
    return Distribution(_lognormal, (("median", median), ("p95", p95), *_bounds(min, max)))


def exponential(mean: Number, *, min: Number | None = None, max: Number | None = None) -> Distribution:
    """The pauses between events that come at random; only the part from `min` to `max` is drawn from."""
    return Distribution(_exponential, (("mean", mean), *_bounds(min, max)))


@dataclass(frozen=True, slots=True)
class Distribution:
    """What the user wrote. For `think_time` its numbers are durations (5, "5s"), for an input plain numbers."""

    build: Callable[..., Law]
    parameters: tuple[tuple[str, Number], ...]

    def read(self, number: Callable[[object, str], float]) -> Law:
        """Its law; `number` reads the value of a parameter. Raises UsageError that names the parameter."""
        return self.build(**{name: number(value, name) for name, value in self.parameters})

    def written(self, number: Callable[[Number], str]) -> str:
        """As a call, each parameter shown by `number`."""
        shown = [f"{name}={number(value)}" if name in _BOUNDS else number(value) for name, value in self.parameters]
        return f"{self.build.__name__.removeprefix('_')}({', '.join(shown)})"

    def __repr__(self) -> str:
        return self.written(repr)


def _bounds(low: Number | None, high: Number | None) -> tuple[tuple[str, Number], ...]:
    return tuple((name, value) for name, value in zip(_BOUNDS, (low, high), strict=True) if value is not None)


def _uniform(low: float, high: float) -> Law:
    _expect(low <= high, f"low={low:g} is above high={high:g}")
    return Law(low, high, Flat())


def _normal(mean: float, stdev: float, min: float = -math.inf, max: float = math.inf) -> Law:
    _expect(stdev > 0, f"stdev={stdev:g} must be above 0")
    return _bounded(Normal(mean, stdev), min, max)


def _lognormal(median: float, p95: float, min: float = 0.0, max: float = math.inf) -> Law:
    _expect(median > 0, f"median={median:g} must be above 0")
    _expect(p95 > median, f"p95={p95:g} must be above the median, {median:g}")
    return _bounded(Lognormal(median, math.log(p95 / median) / _Z95), min, max)


def _exponential(mean: float, min: float = 0.0, max: float = math.inf) -> Law:
    _expect(mean > 0, f"mean={mean:g} must be above 0")
    return _bounded(Exponential(mean), min, max)


def _bounded(curve: Curve, low: float, high: float) -> Law:
    law = Law(low, high, curve)
    _expect(low < high, f"min={low:g} must be below max={high:g}")
    _expect(law.possible, f"next to nothing of it lies from {low:g} to {high:g}; move min or max")
    return law


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise UsageError(otherwise)
