"""Executors, which determine when prompts are sent; the names are those of k6.

Closed: a user sends its next prompt when it is done with the last one. Open: prompts arrive independently, and each is
assigned to a user. Times are in seconds from the start of the measured window.

Every executor has its `duration` and its number of `prompts`, each None if it depends on the server's speed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from pytest_comfyload.metrics.arrival_trace import ArrivalTrace
from pytest_comfyload.metrics.units import counted, format_duration
from pytest_comfyload.scenario.pacing import RateStage, arrivals, expected_arrivals, format_rate

__all__ = [
    "ArrivalRate", "Burst", "ClosedExecutor", "ConstantUsers", "Executor", "OpenExecutor", "PerUserIterations",
    "RampingUsers", "RecordedArrivals", "SharedIterations", "UserStage", "planned",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class PerUserIterations:
    """Every user sends `iterations` prompts, one after the other."""

    users: int
    iterations: int

    name = "per-user iterations"
    duration: float | None = None

    def stage_at(self, time: float) -> int | None:
        return None

    @property
    def prompts(self) -> int:
        return self.users * self.iterations

    def next_start(self, user: int, iteration: int, taken: int, free_at: float) -> float | None:
        """Return when a user that is free at `free_at` starts iteration number `iteration`; None if it has finished.

        `taken` is the number of iterations that all users have started so far.
        """
        return free_at if iteration < self.iterations else None

    def __str__(self) -> str:
        return f"{counted(self.users, 'user')} × {counted(self.iterations, 'iteration')}"


@dataclass(frozen=True, slots=True)
class SharedIterations:
    """The users share `iterations` prompts: the next free user sends the next one."""

    users: int
    iterations: int

    name = "shared iterations"
    duration: float | None = None

    def stage_at(self, time: float) -> int | None:
        return None

    @property
    def prompts(self) -> int:
        return self.iterations

    def next_start(self, user: int, iteration: int, taken: int, free_at: float) -> float | None:
        return free_at if taken < self.iterations else None

    def __str__(self) -> str:
        return f"{counted(self.users, 'user')} sharing {counted(self.iterations, 'iteration')}"


@dataclass(frozen=True, slots=True)
class ConstantUsers:
    """A constant number of users send one prompt after the other until `duration` is over."""

    users: int
    duration: float

    name = "constant users"
    prompts: None = None

    def stage_at(self, time: float) -> int | None:
        return None

    def next_start(self, user: int, iteration: int, taken: int, free_at: float) -> float | None:
        return free_at if free_at < self.duration else None

    def __str__(self) -> str:
        return f"{counted(self.users, 'user')} for {format_duration(self.duration)}"


@dataclass(frozen=True, slots=True)
class UserStage:
    """For `duration` seconds, the number of users changes linearly to `target`."""

    duration: float
    target: int


@dataclass(frozen=True, slots=True)
class RampingUsers:
    """The number of users follows `stages`, from 0; user number u (from 0) is active while more than u are due."""

    stages: tuple[UserStage, ...]

    name = "ramping users"
    prompts: None = None

    @property
    def users(self) -> int:
        return max(stage.target for stage in self.stages)

    @property
    def duration(self) -> float:
        return sum(stage.duration for stage in self.stages)

    def stage_at(self, time: float) -> int | None:
        return _stage_at([stage.duration for stage in self.stages], time)

    def next_start(self, user: int, iteration: int, taken: int, free_at: float) -> float | None:
        begin, before = 0.0, 0
        for stage in self.stages:
            end = begin + stage.duration
            if free_at < end and (start := _when_due(user, max(free_at, begin), begin, before, stage)) is not None:
                return start
            begin, before = end, stage.target
        return None

    def __str__(self) -> str:
        steps = ", ".join(f"to {stage.target} in {format_duration(stage.duration)}" for stage in self.stages)
        return f"ramping users {steps}"


def _when_due(user: int, time: float, begin: float, before: int, stage: UserStage) -> float | None:
    """Return the first time in the stage, not before `time`, at which more than `user` users are due; None if never."""
    slope = (stage.target - before) / stage.duration
    if before + slope * (time - begin) > user:
        return time
    if slope <= 0 or stage.target <= user:
        return None
    return begin + (user - before) / slope


@dataclass(frozen=True, slots=True)
class Burst:
    """All prompts are sent at once, each by its own user."""

    users: int

    name = "burst"
    duration: float | None = None

    def stage_at(self, time: float) -> int | None:
        return None

    @property
    def prompts(self) -> int:
        return self.users

    def next_start(self, user: int, iteration: int, taken: int, free_at: float) -> float | None:
        return 0.0 if iteration == 0 else None

    def __str__(self) -> str:
        return f"burst of {counted(self.users, 'prompt')}"


@dataclass(frozen=True, slots=True)
class ArrivalRate:
    """Prompts arrive at a rate, whether or not earlier ones are done; beyond `max_in_flight` they are dropped."""

    stages: tuple[RateStage, ...]
    poisson: bool = False
    max_in_flight: int | None = None

    @property
    def name(self) -> str:
        return "constant arrival rate" if len(self._rates) == 1 else "ramping arrival rate"

    @property
    def users(self) -> int:
        """The number of users at the start; more are created as needed."""
        return min(2, self.max_in_flight or 2)

    @property
    def duration(self) -> float:
        return sum(stage.duration for stage in self.stages)

    @property
    def prompts(self) -> float:
        """The expected number of prompts."""
        return expected_arrivals(self.stages)

    def stage_at(self, time: float) -> int | None:
        return _stage_at([stage.duration for stage in self.stages], time) if len(self.stages) > 1 else None

    def arrivals(self, rng: random.Random) -> Iterator[float]:
        return arrivals(self.stages, rng if self.poisson else None)

    @property
    def _rates(self) -> set[float]:
        return {rate for stage in self.stages for rate in (stage.start, stage.end)}

    def __str__(self) -> str:
        kind = ", Poisson arrivals" if self.poisson else ""
        limit = f", at most {self.max_in_flight} in flight" if self.max_in_flight else ""
        if len(self._rates) == 1:
            rate = f"{format_rate(self.stages[0].end)} for {format_duration(self.duration)}"
        else:
            steps = ", ".join(
                f"to {format_rate(stage.end)} in {format_duration(stage.duration)}" for stage in self.stages
            )
            rate = f"ramping arrivals {steps}"
        return f"{rate}{kind}{limit}"


@dataclass(frozen=True, slots=True)
class RecordedArrivals:
    """Prompts arrive at the times in a window of a recorded trace; beyond `max_in_flight` they are dropped.

    `times` and `duration` are those of the load, changed by its speed. `origin` identifies the trace and its window.
    """

    times: tuple[float, ...] = field(repr=False)
    duration: float
    origin: str
    max_in_flight: int | None = None

    name = "recorded arrivals"

    @classmethod
    def of(cls, trace: ArrivalTrace, window: str, speed: float, max_in_flight: int | None) -> RecordedArrivals:
        """Select a window of a trace, played at `speed`. Raises: UsageError if the trace does not have the window."""
        part = trace.select(window)
        faster = "" if speed == 1 else f" at {speed:g} × speed"
        return cls(
            tuple([time / speed for time in part.times]),
            part.duration / speed,
            f"{trace.name} ({trace.digest}), {window}{faster}",
            max_in_flight,
        )

    @property
    def users(self) -> int:
        """The number of users at the start; more are created as needed."""
        return min(2, self.max_in_flight or 2)

    @property
    def prompts(self) -> int:
        return len(self.times)

    def stage_at(self, time: float) -> int | None:
        return None

    def arrivals(self, rng: random.Random) -> Iterator[float]:
        return iter(self.times)

    def __str__(self) -> str:
        limit = f", at most {self.max_in_flight} in flight" if self.max_in_flight else ""
        return f"{counted(self.prompts, 'arrival')} in {format_duration(self.duration)} of {self.origin}{limit}"


def _stage_at(durations: Sequence[float], time: float) -> int:
    """Return the number of the stage, from 1, that contains a time; the last stage for later times."""
    ends = accumulate(durations)
    return next((number for number, end in enumerate(ends, 1) if time < end), len(durations))


ClosedExecutor = PerUserIterations | SharedIterations | ConstantUsers | RampingUsers | Burst
OpenExecutor = ArrivalRate | RecordedArrivals
Executor = ClosedExecutor | OpenExecutor


def planned(executor: Executor) -> int | None:
    """Return the total number of prompts; None if it depends on the server or on chance."""
    match executor:
        case PerUserIterations() | SharedIterations() | Burst() | RecordedArrivals():
            return executor.prompts
        case _:
            return None
