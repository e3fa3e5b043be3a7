"""A user's pause between two prompts: always as long, or drawn anew each time."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.units import format_duration, parse_duration
from pytest_comfyload.scenario.distributions import Distribution
from pytest_comfyload.scenario.law import Law

__all__ = ["NO_PAUSE", "ThinkTime"]

NAME = "think_time"


@dataclass(frozen=True, slots=True)
class ThinkTime(Law):
    """Seconds; `written` is the distribution as a person reads it, where there is one."""

    written: str = ""

    @classmethod
    def read(cls, value: object) -> ThinkTime:
        """From a duration, a pair (shortest, longest) or a distribution. Raises: UsageError."""
        if isinstance(value, Distribution):
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


def _drawn(distribution: Distribution) -> ThinkTime:
    """The part of it from 0 on: nobody starts before the last prompt is in hand."""
    try:
        law = distribution.read(parse_duration)
    except UsageError as error:
        raise UsageError(f"{NAME}={distribution!r}: {error}") from None
    pause = ThinkTime(max(law.low, 0.0), law.high, law.curve, distribution.written(_shown))
    if not pause.possible:
        raise UsageError(f"{NAME}={distribution!r}: next to nothing of it is above 0; give a larger mean")
    return pause


def _shown(value: object) -> str:
    return format_duration(parse_duration(value, NAME))
