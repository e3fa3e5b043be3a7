"""What a load could have measured: its plan, served again and again with service times redrawn from the measured ones.

The interval speaks of a rerun of this plan, not of a steady state, and is as good as its premise: service times that
neither drift nor depend on the load.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pytest_comfyload.metrics.queueing import Dispatch, serve, serve_users

__all__ = [
    "Arrivals",
    "Interval",
    "Plan",
    "Service",
    "Times",
    "Users",
    "middle",
    "percentile",
    "play",
    "replay",
    "runs_of",
]


class Service(NamedTuple):
    """What one prompt asks for, in seconds: of the server, and of its user besides the waiting.

    occupied: how long no other prompt can start. generation: `generation_time`, +∞ for a prompt that fails.
    outside: the rest of `total_time`, without the queue.
    """

    occupied: float
    generation: float
    outside: float = 0.0

    @classmethod
    def of(cls, generation: float) -> Service:
        """A prompt that is nothing but generation."""
        return cls(generation, generation)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Prompts that come at these times, in ascending order: an open load."""

    at: tuple[float, ...]

    @classmethod
    def burst(cls, prompts: int) -> Arrivals:
        """All at once."""
        return cls((0.0,) * prompts)


@dataclass(frozen=True, slots=True)
class Users:
    """Users who send one prompt after the other: each so many times, or all together `shared` times, or until no
    prompt is due before `duration`. `pauses`, if any, are those after each prompt, by its number, in place of
    `think_time`; after the last of them it begins anew.
    """

    count: int
    iterations: float = math.inf
    duration: float = math.inf
    think_time: float = 0.0
    shared: float = math.inf
    pauses: tuple[float, ...] = ()

    def pause(self, k: int) -> float:
        """Seconds between the end of prompt number k and its user's next one."""
        return self.pauses[k % len(self.pauses)] if self.pauses else self.think_time


Plan = Arrivals | Users


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds, prompt by prompt in order of arrival."""

    queue_time: list[float]
    generation_time: list[float]
    total_time: list[float]


class Interval(NamedTuple):
    """Both ends belong to it."""

    lower: float
    upper: float

    def covers(self, value: float) -> bool:
        return self.lower <= value <= self.upper


def percentile(values: Iterable[float], q: float) -> float:
    """The least value that at least q percent do not exceed (nearest rank); nan of nothing."""
    ordered = sorted(values)
    # Rounded first: 0.07 × 100 is 7.000000000000001, whose ceiling is one rank too high.
    rank = max(1, math.ceil(round(q * len(ordered) / 100, 9)))
    return ordered[rank - 1] if ordered else math.nan


def play(plan: Plan, draw: Callable[[int, int], Service], servers: int = 1, dispatch: Dispatch = "shared") -> Times:
    """One run of the plan; `draw(k, server)` is what prompt number k asks of that server.

    It is that of user k % users in iteration k // users, or the k-th to arrive.
    """
    services: list[Service] = []
    if isinstance(plan, Arrivals):
        passages = serve(plan.at, _taker(draw, services), servers, dispatch)
    else:
        passages = serve_users(plan.count, _sender(plan, draw, services), servers, dispatch)
    waits = passages.waits
    return Times(
        queue_time=waits,
        generation_time=[service.generation for service in services],
        total_time=[wait + service.generation + service.outside for wait, service in zip(waits, services, strict=True)],
    )


def runs_of(
    plan: Plan,
    pool_of: Callable[[int, int], Sequence[Service]],
    rng: random.Random,
    *,
    servers: int = 1,
    dispatch: Dispatch = "shared",
    runs: int = 1000,
) -> Iterator[Times]:
    """So many runs; prompt number k on server s is redrawn, with replacement, from `pool_of(k, s)`."""
    uniform = rng.random

    def draw(k: int, server: int) -> Service:
        pool = pool_of(k, server)
        return pool[int(uniform() * len(pool))]

    return (play(plan, draw, servers, dispatch) for _ in range(runs))


def replay(
    plan: Plan,
    pool: Sequence[Service],
    statistic: Callable[[Times], float],
    rng: random.Random,
    *,
    servers: int = 1,
    dispatch: Dispatch = "shared",
    runs: int = 1000,
) -> Interval:
    """The 5th to 95th percentile of `statistic` over so many runs with services redrawn from `pool`."""
    played = runs_of(plan, lambda k, server: pool, rng, servers=servers, dispatch=dispatch, runs=runs)
    return middle([statistic(times) for times in played])


def middle(results: Sequence[float]) -> Interval:
    """Nine tenths of them: from the 5th to the 95th percentile."""
    return Interval(percentile(results, 5), percentile(results, 95))


def _taker(draw: Callable[[int, int], Service], sent: list[Service]) -> Callable[[int, int], float]:
    def take(k: int, server: int) -> float:
        service = draw(k, server)
        sent.append(service)
        return service.occupied

    return take


def _sender(
    plan: Users, draw: Callable[[int, int], Service], sent: list[Service]
) -> Callable[[int, int, float, int], tuple[float, float] | None]:
    def send(user: int, iteration: int, at: float, server: int) -> tuple[float, float] | None:
        if iteration >= plan.iterations or at >= plan.duration or len(sent) >= plan.shared:
            return None
        k = iteration * plan.count + user
        service = draw(k, server)
        sent.append(service)
        return service.occupied, service.outside + plan.pause(k)

    return send
