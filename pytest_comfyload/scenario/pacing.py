"""Arrival rates and think times: parsing what users write, and the times at which prompts are due."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.units import format_duration, parse_duration
from pytest_comfyload.scenario.distributions import DistributionSpec, TruncatedDistribution

__all__ = ["NO_PAUSE", "RateStage", "ThinkTime", "arrivals", "expected_arrivals", "format_rate", "parse_rate"]

_SECONDS = {"s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "hour": 3600.0}
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*/\s*(s|sec|min|m|h|hour)")


def parse_rate(value: object, name: str) -> float:
    """Return prompts per second. A number without a unit is refused. Raises: UsageError."""
    match = _RATE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise UsageError(f"{name}={value!r} is not a rate; write a number and a unit, such as '6/min', '0.5/s', '90/h'")
    return float(match[1]) / _SECONDS[match[2]]


def format_rate(per_second: float) -> str:
    return f"{per_second * 60:.3g}/min"


@dataclass(frozen=True, slots=True)
class RateStage:
    """For `duration` seconds, the rate changes linearly from `start` to `end`, both in prompts per second."""

    duration: float
    start: float
    end: float

    @property
    def expected(self) -> float:
        return self.duration * (self.start + self.end) / 2

    def when(self, number: float) -> float:
        """Return the time from the start of the stage at which `number` prompts are expected to have arrived.

        This is the root of start·t + slope·t²/2 = number, in the form that is exact for slope 0.
        """
        slope = (self.end - self.start) / self.duration
        root = math.sqrt(max(0.0, self.start**2 + 2 * slope * number))
        return 0.0 if number == 0 else min(self.duration, 2 * number / (self.start + root))


def expected_arrivals(stages: Sequence[RateStage]) -> float:
    return sum(stage.expected for stage in stages)


def arrivals(stages: Sequence[RateStage], rng: random.Random | None) -> Iterator[float]:
    """Yield arrival times in seconds from the start: evenly spaced, or with `rng` a Poisson process of that rate.

    A Poisson process of any rate is the unit-rate process on the scale of the expected number of arrivals (Çinlar,
    Introduction to Stochastic Processes, 1975, ch. 4.7).
    """
    begin, passed = 0.0, 0.0
    numbers = _poisson(rng) if rng is not None else map(float, count())
    number = next(numbers)
    for stage in stages:
        while number < passed + stage.expected:
            yield begin + stage.when(number - passed)
            number = next(numbers)
        begin, passed = begin + stage.duration, passed + stage.expected


def _poisson(rng: random.Random) -> Iterator[float]:
    number = 0.0
    while True:
        number += rng.expovariate(1.0)
        yield number


NAME = "think_time"


@dataclass(frozen=True, slots=True)
class ThinkTime(TruncatedDistribution):
    """A user's pause in seconds; `written` is the distribution in readable form, if the user gave one."""

    written: str = ""

    @classmethod
    def read(cls, value: object) -> ThinkTime:
        """Read it from a duration, a pair (shortest, longest) or a distribution. Raises: UsageError."""
        if isinstance(value, DistributionSpec):
            return _drawn(value)
        if isinstance(value, list | tuple):
            return _even(value)
        seconds = parse_duration(value, NAME)
        return cls(seconds, seconds)

    def __str__(self) -> str:
        if not self.high:
            return ""
        if self.written:
            return f", {self.written} think time"
        if self.low == self.high:
            return f", {format_duration(self.high)} think time"
        return f", {format_duration(self.low)} to {format_duration(self.high)} think time"


NO_PAUSE = ThinkTime()


def _even(pair: list[object] | tuple[object, ...]) -> ThinkTime:
    if len(pair) != 2:
        raise UsageError(f"{NAME}={pair!r} is neither a duration nor a pair (shortest, longest)")
    low, high = (parse_duration(end, NAME) for end in pair)
    if low > high:
        raise UsageError(f"{NAME}={pair!r}: the shortest is longer than the longest")
    return ThinkTime(low, high)


def _drawn(distribution: DistributionSpec) -> ThinkTime:
    """Truncate the distribution at 0: no user starts before its last prompt is done."""
    try:
        law = distribution.read(parse_duration)
    except UsageError as error:
        raise UsageError(f"{NAME}={distribution!r}: {error}") from None
    pause = ThinkTime(max(law.low, 0.0), law.high, law.curve, distribution.written(_shown))
    if not pause.possible:
        raise UsageError(f"{NAME}={distribution!r}: almost none of its values are above 0; give a larger mean")
    return pause


def _shown(value: object) -> str:
    return format_duration(parse_duration(value, NAME))
