"""Simulation of prompt waits and paid server time under any queue discipline, with autoscaling and failures."""

from __future__ import annotations

import math
import operator
import random
from collections import deque
from collections.abc import Sequence
from heapq import heappop, heappush, heapreplace

from pytest_comfyload.capacity.event_loop import EventLoop
from pytest_comfyload.capacity.fleet import Autoscaling, Demand, Fleet, Ran
from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.queueing import Dispatch, serve

__all__ = ["simulate"]


def simulate(demand: Demand, fleet: Fleet, seed: int = 0) -> Ran:
    """Simulate a fleet until the last prompt has ended; `seed` determines failures and random balancing.

    Raises: UsageError if servers would hardly ever be up long enough for a prompt.
    """
    _check_lives(demand, fleet)
    if fleet.autoscaling is not None and fleet.on_demand:
        return _OnDemand(demand, fleet.autoscaling, fleet.servers).run()
    users = _users(demand, fleet, seed)
    return _recursion(demand, fleet, users) if fleet.recursive else EventLoop(demand, fleet, users, seed).run()


def _check_lives(demand: Demand, fleet: Fleet) -> None:
    longest = max(demand.services, default=0.0) + (fleet.affinity.switch if fleet.affinity else 0.0)
    if fleet.failures and fleet.failures.mean_time_between < longest:
        given = fleet.failures.mean_time_between
        raise UsageError(f"mean_time_between={given!r} is less than the longest prompt needs, {longest:.4g} s")


def _users(demand: Demand, fleet: Fleet, seed: int) -> Sequence[int]:
    """Return the user whose server each prompt goes to, if that does not depend on the queues.

    Random balancing draws these users.
    """
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
    """Service times of prompts on servers that have to load models."""

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


class _OnDemand:
    """Servers that are started on demand, one for each prompt: the event loop's result, several times as fast.

    Prompts start in order of arrival, and none waits while a server is idle. Idle servers are therefore examined only
    when a prompt arrives: the last one to become idle takes it, and the first one is turned off first.
    """

    def __init__(self, demand: Demand, scaling: Autoscaling, servers: int) -> None:
        self._demand, self._scaling, self._count = demand, scaling, servers
        self._starts: list[float] = []
        self._servers: list[int] = []
        self._working: list[tuple[float, bool, int]] = []  # a heap: end, whether it is starting, server
        self._idle: deque[tuple[float, int]] = deque()  # time to turn it off, server
        self._off = list(range(servers))  # a heap
        self._on_since = [0.0] * servers
        self._ended, self._cold_starts, self._paid = 0, 0, 0.0

    def run(self) -> Ran:
        arrivals, idle, off = self._demand.arrivals, self._idle, self._off
        for k, at in enumerate(arrivals):
            self._work_until(at, k)
            if idle:
                server = idle.pop()[1]
                heappush(self._working, (self._start(at, server), False, server))
            elif off and k - self._ended >= self._count - len(off):
                self._turn_on(at)
        self._work_until(math.inf, len(arrivals))
        ends = list(map(operator.add, self._starts, self._demand.services))
        return Ran(arrivals, self._starts, ends, self._servers, self._paid, cold_starts=self._cold_starts)

    def _start(self, at: float, server: int) -> float:
        """Start the next prompt, and return its end."""
        end = at + self._demand.services[len(self._starts)]
        self._starts.append(at)
        self._servers.append(server)
        return end

    def _work_until(self, until: float, arrived: int) -> None:
        """Advance to `until`: servers take the prompts that have arrived, and idle ones are turned off."""
        working, idle = self._working, self._idle
        while working and working[0][0] <= until:
            at, is_starting, server = working[0]
            self._ended += not is_starting
            if len(self._starts) < arrived:
                heapreplace(working, (self._start(at, server), False, server))
            else:
                heappop(working)
                idle.append((at + self._scaling.idle, server))
        while idle and idle[0][0] <= until:
            at, server = idle.popleft()
            self._paid += at - self._on_since[server]
            heappush(self._off, server)

    def _turn_on(self, at: float) -> None:
        server = heappop(self._off)
        self._on_since[server] = at
        self._cold_starts += 1
        heappush(self._working, (at + self._scaling.cold_start, True, server))
