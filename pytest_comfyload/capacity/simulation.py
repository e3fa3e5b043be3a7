"""What prompts wait and what servers cost, under any discipline, with autoscaling and failures."""

from __future__ import annotations

import random
from collections.abc import Sequence

from pytest_comfyload.capacity.event_loop import EventLoop
from pytest_comfyload.capacity.fleet import Demand, Fleet, Ran
from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.queueing import Dispatch, serve

__all__ = ["simulate"]


def simulate(demand: Demand, fleet: Fleet, seed: int = 0) -> Ran:
    """Simulate a fleet until the last prompt has ended; `seed` is that of failures and random balancing.

    Raises: UsageError when servers would hardly ever be up long enough for a prompt.
    """
    _check_lives(demand, fleet)
    users = _users(demand, fleet, seed)
    return _recursion(demand, fleet, users) if fleet.recursive else EventLoop(demand, fleet, users, seed).run()


def _check_lives(demand: Demand, fleet: Fleet) -> None:
    longest = max(demand.services, default=0.0) + (fleet.affinity.switch if fleet.affinity else 0.0)
    if fleet.failures and fleet.failures.mean_time_between < longest:
        given = fleet.failures.mean_time_between
        raise UsageError(f"mean_time_between={given!r} is less than the longest prompt needs, {longest:.4g} s")


def _users(demand: Demand, fleet: Fleet, seed: int) -> Sequence[int]:
    """Whose server each prompt goes to, where that does not depend on the queues: random balancing draws it."""
    if fleet.dispatch != "random":
        return demand.people if fleet.dispatch == "sticky" else ()
    draw = random.Random(seed).random
    return [int(draw() * fleet.servers) for _ in demand.arrivals]


def _recursion(demand: Demand, fleet: Fleet, users: Sequence[int]) -> Ran:
    switches = 0
    dispatch: Dispatch = "sticky" if fleet.dispatch == "random" else fleet.dispatch
    if fleet.affinity is None:
        passages = serve(demand.arrivals, demand.services, fleet.servers, dispatch, users)
    else:
        taking = _Switching(demand, fleet.servers, fleet.affinity.switch)
        passages = serve(demand.arrivals, taking, fleet.servers, dispatch, users)
        switches = taking.switches
    paid = fleet.servers * max(demand.until, max(passages.ends, default=0.0))
    return Ran(passages.arrivals, passages.starts, passages.ends, passages.servers, paid, switches=switches)


class _Switching:
    """Gives the service times of prompts on servers that have to load models."""

    def __init__(self, demand: Demand, servers: int, switch: float) -> None:
        self._demand, self._switch = demand, switch
        self._loaded: list[int | None] = [None] * servers
        self.switches = 0

    def __call__(self, k: int, server: int) -> float:
        seconds, model = self._demand.services[k], self._demand.models[k] if self._demand.models else 0
        if self._loaded[server] != model:
            self._loaded[server] = model
            self.switches += 1
            seconds += self._switch
        return seconds
