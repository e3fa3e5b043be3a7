"""How prompts reach a server and what each asks of it: a plan, which can be played with any service times."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pytest_comfyload.metrics.queueing import Dispatch, serve, serve_users

__all__ = ["Arrivals", "Plan", "Pools", "Service", "Times", "Users", "play"]


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
        """Return arrivals all at once."""
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
class Pools:
    """What prompts are redrawn from: number k on server s from `rows[kinds[k]][s]`; after the last kind anew."""

    rows: Sequence[Sequence[Sequence[Service]]]
    kinds: Sequence[int] = (0,)

    def of(self, k: int, server: int) -> Sequence[Service]:
        return self.rows[self.kinds[k % len(self.kinds)]][server]


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds, prompt by prompt in order of arrival: lists, or arrays of numpy."""

    queue_time: Sequence[float]
    generation_time: Sequence[float]
    total_time: Sequence[float]


def play(plan: Plan, draw: Callable[[int, int], Service], servers: int = 1, dispatch: Dispatch = "shared") -> Times:
    """Simulate one run of the plan; `draw(k, server)` is what prompt number k asks of that server.

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
