"""Input and result of a simulation: prompts, and the servers that serve them.

Times are seconds from the beginning of the simulation.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, get_args

from pytest_comfyload.capacity.columns import listed, minus, total_of
from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.queueing import Dispatch

__all__ = ["KEDA", "RAY_SERVE", "Affinity", "Autoscaling", "Balancing", "Demand", "Discipline", "Failures", "Fleet"]
__all__ += ["Ran"]

# The next prompt. fifo: the earliest. priority: the earliest with the lowest number in `priorities`. fair: people in
# turn.
Discipline = Literal["fifo", "priority", "fair"]
# "sticky": people stay with a server. All but "shared" give each server a queue of its own.
Balancing = Literal[Dispatch, "random"]


def _check_seconds(**durations: float) -> None:
    for name, value in durations.items():
        if not 0 <= value < math.inf:
            raise UsageError(f"{name}={value!r} is not a number of seconds of at least 0")


@dataclass(frozen=True, slots=True)
class Demand:
    """Prompts in order of arrival; `services` are the seconds for which they occupy a server with their model loaded.

    people, priorities, models: numbers from 0, one for each prompt, or () if they do not matter.
    until: always-on servers are kept up at least until then.

    Raises: UsageError.
    """

    arrivals: Sequence[float]
    services: Sequence[float]
    people: Sequence[int] = ()
    priorities: Sequence[int] = ()
    models: Sequence[int] = ()
    until: float = 0.0

    def __post_init__(self) -> None:
        n = len(self.arrivals)
        for name, optional in (("services", 0), ("people", 1), ("priorities", 1), ("models", 1)):
            if (count := len(getattr(self, name))) != n and not (optional and count == 0):
                raise UsageError(f"{n} arrivals need as many {name}, not {count}")
        if not all(map(operator.le, self.arrivals, islice(self.arrivals, 1, None))):
            raise UsageError("arrivals must be in ascending order")
        # In ascending order, the first and last bound the others; a sum is finite only if all numbers are.
        _check_seconds_of("arrivals", (*self.arrivals[:1], *self.arrivals[-1:]))
        if not math.isfinite(sum(self.services)) or min(self.services, default=0) < 0:
            _check_seconds_of("services", self.services)
        _check_seconds_of("until", (self.until,))


def _check_seconds_of(name: str, values: Sequence[float]) -> None:
    for value in values:
        if not 0 <= value < math.inf:
            raise UsageError(f"{name}: {value!r} is not a number of seconds of at least 0")


@dataclass(frozen=True, slots=True)
class Affinity:
    """Servers with one model loaded at a time, which need `switch` seconds to load another; at first none is loaded.

    A prompt whose model is loaded overtakes those of its priority while the first of them has waited less than
    `overtake` seconds; 0: servers take prompts regardless of the model that they have loaded.
    """

    switch: float
    overtake: float = 0.0

    def __post_init__(self) -> None:
        _check_seconds(switch=self.switch, overtake=self.overtake)


@dataclass(frozen=True, slots=True)
class Autoscaling:
    """Autoscaling to one server for every `prompts_per_server` prompts that wait or run.

    Missing servers are started once they have been missing for `delay` seconds, at the next multiple of `poll`, and
    serve `cold_start` seconds later. A server that has been idle for `idle` seconds is turned off, down to `minimum`
    servers. The server that became idle last takes the next prompt, so that the others can be turned off.
    """

    cold_start: float
    idle: float
    minimum: int = 0
    prompts_per_server: float = 1.0
    poll: float = 0.0
    delay: float = 0.0

    def __post_init__(self) -> None:
        _check_seconds(cold_start=self.cold_start, idle=self.idle, poll=self.poll, delay=self.delay)
        if not 1 <= self.prompts_per_server < math.inf:
            raise UsageError(f"prompts_per_server={self.prompts_per_server!r} is not a number of at least 1")
        if self.minimum < 0:
            raise UsageError(f"minimum={self.minimum!r} is not a whole number of at least 0")


# The defaults of both autoscalers, with an assumed cold start of a ComfyUI container; replace it by a measured one.
KEDA = Autoscaling(cold_start=45.0, idle=300.0, poll=30.0)
RAY_SERVE = Autoscaling(cold_start=45.0, idle=600.0, minimum=1, prompts_per_server=2.0, delay=30.0)


@dataclass(frozen=True, slots=True)
class Failures:
    """Failures after exponentially distributed times, each repaired in `repair` seconds; its prompt starts over."""

    mean_time_between: float
    repair: float

    def __post_init__(self) -> None:
        _check_seconds(mean_time_between=self.mean_time_between, repair=self.repair)
        if not self.mean_time_between:
            raise UsageError("mean_time_between=0 is not positive")


@dataclass(frozen=True, slots=True)
class Fleet:
    """Identical servers; with autoscaling, `servers` is the most that may be on. Raises: UsageError."""

    servers: int = 1
    queue: Discipline = "fifo"
    dispatch: Balancing = "shared"
    affinity: Affinity | None = None
    autoscaling: Autoscaling | None = None
    failures: Failures | None = None

    def __post_init__(self) -> None:
        if self.servers < 1:
            raise UsageError(f"servers={self.servers!r} is not a whole number of at least 1")
        for name, value, legal in (
            ("queue", self.queue, get_args(Discipline)),
            ("dispatch", self.dispatch, get_args(Balancing)),
        ):
            if value not in legal:
                raise UsageError(f"{name}={value!r}: legal: {', '.join(legal)}")
        if self.autoscaling and self.dispatch != "shared":
            raise UsageError(f"dispatch={self.dispatch!r} with autoscaling: legal is shared")
        if self.autoscaling and self.autoscaling.minimum > self.servers:
            raise UsageError(f"minimum={self.autoscaling.minimum!r} exceeds servers={self.servers!r}")

    @property
    def recursive(self) -> bool:
        """Whether the only events are arrivals and ends, in order of arrival."""
        overtaking = self.affinity is not None and self.affinity.overtake > 0
        return self.queue == "fifo" and not (overtaking or self.autoscaling or self.failures)

    @property
    def is_line(self) -> bool:
        """Whether there is one queue, or one for each server, and nothing depends on the lengths of the queues."""
        return self.recursive and self.affinity is None and self.dispatch in ("shared", "round_robin", "sticky")

    @property
    def on_demand(self) -> bool:
        """Whether each arriving prompt starts a server, in order of arrival, and all servers may be off."""
        if self.autoscaling is None or self.queue != "fifo" or self.affinity or self.failures:
            return False
        scaling = self.autoscaling
        return scaling.prompts_per_server == 1 and not (scaling.minimum or scaling.poll or scaling.delay)


@dataclass(frozen=True, slots=True)
class Ran:
    """Result of a simulation: the prompts, in order of arrival, and the servers.

    starts, ends: of each service, including loading its model; of the last attempt if a prompt started over.
    servers: the server that ran each prompt, or () if that was not recorded.
    lost: seconds of work that failures undid, by server, or () for none.
    paid: seconds for which servers were on, starting or in repair; always-on ones count from 0 to the last end or
    `until`.
    """

    arrivals: Sequence[float]
    starts: Sequence[float]
    ends: Sequence[float]
    servers: Sequence[int]
    paid: float
    lost: Sequence[float] = ()
    cold_starts: int = 0
    switches: int = 0
    failures: int = 0

    def busy_of(self, server: int) -> float:
        """Return a server's seconds of services, of loading models, and of work lost in failures."""
        there = [
            end - start for start, end, at in zip(self.starts, self.ends, self.servers, strict=True) if at == server
        ]
        return math.fsum(there) + (self.lost[server] if self.lost else 0.0)

    @property
    def busy(self) -> float:
        """Busy seconds of all servers."""
        return total_of(minus(self.ends, self.starts)) + math.fsum(self.lost)

    @property
    def waits(self) -> list[float]:
        """Seconds from each prompt's arrival to its start."""
        return listed(minus(self.starts, self.arrivals))
