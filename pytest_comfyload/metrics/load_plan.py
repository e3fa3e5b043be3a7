"""Load plans: how prompts reach servers. A plan can be simulated with any service times."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pytest_comfyload.metrics.queueing import Dispatch, serve, serve_users

__all__ = ["Arrivals", "Plan", "Pools", "Service", "Times", "Users", "play"]


class Service(NamedTuple):
    """What one prompt takes, in seconds, besides waiting.

    Args:
        occupied: How long its server cannot start another prompt.
        generation: `generation_time`, +∞ for a prompt that fails.
        outside: The rest of `total_time`, without the queue.
    """

    occupied: float
    generation: float
    outside: float = 0.0

    @classmethod
    def of(cls, generation: float) -> Service:
        """Return the service of a prompt that consists of generation only."""
        return cls(generation, generation)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """An open load: prompts that arrive at these times, in ascending order."""

    at: tuple[float, ...]

    @classmethod
    def burst(cls, prompts: int) -> Arrivals:
        """Return arrivals that are all at the same time."""
        return cls((0.0,) * prompts)


@dataclass(frozen=True, slots=True)
class Users:
    """A closed load: users who each send one prompt after the other.

    Each sends `iterations` prompts, or all together send `shared`, or they stop when no prompt is due before
    `duration`. `pauses`, if any, replace `think_time` by a pause after each prompt, by its number; after the last one
    they start over.
    """

    count: int
    iterations: float = math.inf
    duration: float = math.inf
    think_time: float = 0.0
    shared: float = math.inf
    pauses: tuple[float, ...] = ()

    def pause(self, k: int) -> float:
        """Return the seconds between the end of prompt number k and its user's next one."""
        return self.pauses[k % len(self.pauses)] if self.pauses else self.think_time


Plan = Arrivals | Users


@dataclass(frozen=True, slots=True)
class Pools:
    """The services that prompts are resampled from: `rows[kinds[k]][s]` for number k on server s; `kinds` repeat."""

    rows: Sequence[Sequence[Sequence[Service]]]
    kinds: Sequence[int] = (0,)

    def of(self, k: int, server: int) -> Sequence[Service]:
        return self.rows[self.kinds[k % len(self.kinds)]][server]


@dataclass(frozen=True, slots=True)
class Times:
    """Times of each prompt in seconds, in order of arrival, as lists or numpy arrays."""

    queue_time: Sequence[float]
    generation_time: Sequence[float]
    total_time: Sequence[float]


def play(plan: Plan, draw: Callable[[int, int], Service], servers: int = 1, dispatch: Dispatch = "shared") -> Times:
    """Simulate one run of the plan; `draw(k, server)` returns the service of prompt number k on that server.

    Prompt number k is that of user k % users in iteration k // users, or the k-th to arrive.
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
