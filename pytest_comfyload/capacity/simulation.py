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
    services, models, switching = demand.services, demand.models, fleet.affinity
    servers: list[int] = []
    busy = [0.0] * fleet.servers
    loaded: list[int | None] = [None] * fleet.servers
    switches = 0

    def take(k: int, server: int) -> float:
        nonlocal switches
        seconds = services[k]
        if switching and loaded[server] != (model := models[k] if models else 0):
            loaded[server] = model
            switches += 1
            seconds += switching.switch
        servers.append(server)
        busy[server] += seconds
        return seconds

    dispatch: Dispatch = "sticky" if fleet.dispatch == "random" else fleet.dispatch
    passages = serve(demand.arrivals, take, fleet.servers, dispatch, users)
    paid = fleet.servers * max(demand.until, max(passages.ends, default=0.0))
    return Ran(passages.arrivals, passages.starts, passages.ends, servers, busy, paid, switches=switches)
