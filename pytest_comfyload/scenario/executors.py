"""How load arrives, by k6's names. Closed: a user starts when it is through with its last prompt. Open: prompts come
when they come, and a user is found for each. Times are seconds from the begin of the measured window.

Every executor says its `duration` and how many `prompts` it sends, each None where only the server's pace tells.
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
        """Return when a user that is free at `free_at` starts its iteration number `iteration`; None: it is through.

        `taken` is how many iterations all users have started so far.
        """
        return free_at if iteration < self.iterations else None

    def __str__(self) -> str:
        return f"{counted(self.users, 'user')} × {counted(self.iterations, 'iteration')}"


@dataclass(frozen=True, slots=True)
class SharedIterations:
    """The users share `iterations` prompts: a user that is free takes the next."""

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
    """For `duration` seconds the number of users goes evenly to `target`."""

    duration: float
    target: int


@dataclass(frozen=True, slots=True)
class RampingUsers:
    """The number of users follows `stages`, from none; user number u (from 0) works while more than u are due."""

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
    """The first moment from `time` on, within the stage, at which more than `user` users are due."""
    slope = (stage.target - before) / stage.duration
    if before + slope * (time - begin) > user:
        return time
    if slope <= 0 or stage.target <= user:
        return None
    return begin + (user - before) / slope


@dataclass(frozen=True, slots=True)
class Burst:
    """All prompts at once, each by a user of its own."""

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
    """Prompts arrive at a rate, whether earlier ones are done or not; beyond `max_in_flight` they are dropped."""

    stages: tuple[RateStage, ...]
    poisson: bool = False
    max_in_flight: int | None = None

    @property
    def name(self) -> str:
        return "constant arrival rate" if len(self._rates) == 1 else "ramping arrival rate"

    @property
    def users(self) -> int:
        """How many users stand ready at the begin; more are made as they are needed."""
        return min(2, self.max_in_flight or 2)

    @property
    def duration(self) -> float:
        return sum(stage.duration for stage in self.stages)

    @property
    def prompts(self) -> float:
        """The expected number."""
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
    """Prompts arrive when they did in a window of a recorded trace; beyond `max_in_flight` they are dropped.

    `times` and `duration` are those of the load. `origin` identifies the trace and its window.
    """

    times: tuple[float, ...] = field(repr=False)
    duration: float
    origin: str
    max_in_flight: int | None = None

    name = "recorded arrivals"

    @classmethod
    def of(cls, trace: ArrivalTrace, window: str, speed: float, max_in_flight: int | None) -> RecordedArrivals:
        """Raises: UsageError for a window that the trace does not have."""
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
        """How many users stand ready at the begin; more are made as they are needed."""
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
    """The number of the stage, from 1, that a time lies in; the last one's for what is later."""
    ends = accumulate(durations)
    return next((number for number, end in enumerate(ends, 1) if time < end), len(durations))


ClosedExecutor = PerUserIterations | SharedIterations | ConstantUsers | RampingUsers | Burst
OpenExecutor = ArrivalRate | RecordedArrivals
Executor = ClosedExecutor | OpenExecutor


def planned(executor: Executor) -> int | None:
    """Return how many prompts it will have been in the end; None where that depends on the server or on chance."""
    match executor:
        case PerUserIterations() | SharedIterations() | Burst() | RecordedArrivals():
            return executor.prompts
        case _:
            return None
