"""How load arrives, by k6's names: when does a user start the next iteration? Times count from the window's start."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_comfyload.scenario.units import format_duration

__all__ = ["Burst", "ConstantUsers", "Executor", "PerUserIterations"]


@dataclass(frozen=True, slots=True)
class PerUserIterations:
    """Every user sends `iterations` prompts, one after the other."""

    users: int
    iterations: int
    think_time: float = 0.0

    name = "per-user iterations"
    duration: float | None = None

    def next_start(self, iteration: int, previous_end: float | None) -> float | None:
        """When iteration number `iteration` (from 0) is due; None: the user is through."""
        if iteration >= self.iterations:
            return None
        return 0.0 if previous_end is None else previous_end + self.think_time

    def __str__(self) -> str:
        return f"{_plural(self.users, 'user')} × {_plural(self.iterations, 'iteration')}{_thinking(self.think_time)}"


@dataclass(frozen=True, slots=True)
class ConstantUsers:
    """A constant number of users send one prompt after the other until `duration` (seconds) is over."""

    users: int
    duration: float
    think_time: float = 0.0

    name = "constant users"

    def next_start(self, iteration: int, previous_end: float | None) -> float | None:
        start = 0.0 if previous_end is None else previous_end + self.think_time
        return start if start < self.duration else None

    def __str__(self) -> str:
        return f"{_plural(self.users, 'user')} for {format_duration(self.duration)}{_thinking(self.think_time)}"


@dataclass(frozen=True, slots=True)
class Burst:
    """All prompts at once, each by a user of its own."""

    users: int

    name = "burst"
    duration: float | None = None

    def next_start(self, iteration: int, previous_end: float | None) -> float | None:
        return 0.0 if iteration == 0 else None

    def __str__(self) -> str:
        return f"burst of {_plural(self.users, 'prompt')}"


Executor = PerUserIterations | ConstantUsers | Burst


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _thinking(seconds: float) -> str:
    return f", {format_duration(seconds)} think time" if seconds else ""
