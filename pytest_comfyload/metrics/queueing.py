"""Queues: one or more servers, first come, first served.

A prompt starts as soon as it has arrived and a server is free for it. The recursions allow any arrivals and any service
times (G/G/c): Lindley's for one server, Kiefer and Wolfowitz's for several with one shared queue. Times are in seconds.
"""

from __future__ import annotations

import math
import operator
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush, heapreplace
from typing import Literal, Protocol, get_args

from pytest_comfyload.errors import UsageError

__all__ = ["Dispatch", "OngoingQueue", "Passages", "serve", "serve_users"]

# Which server takes a prompt. "shared": the first that is free. The others are decided when the prompt arrives: the
# server with the fewest prompts (ties are resolved in turn), each server in turn, or always the same one for a user.
Dispatch = Literal["shared", "least_queue", "round_robin", "sticky"]


class _Station(Protocol):
    """Chooses the server of a user's prompt, and then, given the service time, returns when the prompt starts there."""

    def route(self, at: float, user: int) -> int: ...

    def admit(self, server: int, at: float, service: float) -> float: ...


@dataclass(frozen=True, slots=True)
class Passages:
    """When each prompt arrived, started and ended, and on which server, in order of arrival."""

    arrivals: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    servers: list[int] = field(default_factory=list)

    @property
    def waits(self) -> list[float]:
        return [start - arrival for arrival, start in zip(self.arrivals, self.starts, strict=True)]


def serve(
    arrivals: Sequence[float],
    services: Sequence[float] | Callable[[int, int], float],
    servers: int = 1,
    dispatch: Dispatch = "shared",
    users: Sequence[int] = (),
) -> Passages:
    """Simulate an open load: each prompt arrives at its time, regardless of the others.

    `services` are the service times, or a function `services(k, s)` that returns that of prompt k on server s and is
    called in order of arrival. Prompt number k is that of user `users[k]`; without `users`, of user k.
    Raises: UsageError if `arrivals` are not in order, or not as many as `services`.
    """
    passages = Passages(list(arrivals))
    many = len(arrivals) if callable(services) else len(services)
    if passages.arrivals != sorted(passages.arrivals) or many != len(arrivals):
        raise UsageError(f"{len(arrivals)} arrivals in ascending order need as many service times, not {many}")
    station = _station(servers, dispatch)
    if isinstance(station, _OneServer):
        times = (services(k, 0) for k in range(many)) if callable(services) else services
        _serve_alone(passages, times)
        return passages
    if dispatch == "shared" and not callable(services):
        _serve_shared(passages, services, servers)
        return passages
    if dispatch in ("sticky", "round_robin") and not callable(services):
        of = users if users and dispatch == "sticky" else range(many)
        passages.servers.extend([each % servers for each in of])
        passages.starts.extend(_fixed_starts(passages.arrivals, services, passages.servers, [-math.inf] * servers))
        passages.ends.extend(map(operator.add, passages.starts, services))
        return passages
    for k, at in enumerate(passages.arrivals):
        server = station.route(at, users[k] if users else k)
        service = services(k, server) if callable(services) else services[k]
        start = station.admit(server, at, service)
        passages.starts.append(start)
        passages.ends.append(start + service)
        passages.servers.append(server)
    return passages


def _serve_alone(passages: Passages, services: Iterable[float]) -> None:
    free = float("-inf")
    starts, ends = passages.starts.append, passages.ends.append
    for at, service in zip(passages.arrivals, services, strict=True):
        start = at if at > free else free
        free = start + service
        starts(start)
        ends(free)
    passages.servers.extend([0] * len(passages.arrivals))


def _serve_shared(passages: Passages, services: Sequence[float], servers: int) -> None:
    free = [(float("-inf"), server) for server in range(servers)]
    starts, where = passages.starts.append, passages.servers.append
    for at, service in zip(passages.arrivals, services, strict=True):
        start, server = free[0]
        if at > start:
            start = at
        heapreplace(free, (start + service, server))
        starts(start)
        where(server)
    passages.ends.extend(map(operator.add, passages.starts, services))


def _fixed_starts(
    arrivals: Iterable[float], services: Iterable[float], servers: Iterable[int], free: list[float]
) -> list[float]:
    """Return when prompts start whose servers are known; `free` is when each server is free, and is updated."""
    found: list[float] = []
    starts = found.append
    for at, service, server in zip(arrivals, services, servers, strict=True):
        start = free[server]
        if at > start:
            start = at
        free[server] = start + service
        starts(start)
    return found


class OngoingQueue:
    """Servers whose load comes in batches: prompts that wait at the end of a batch are still waiting in the next.

    It returns nothing but start times, which takes half the time of `serve`.
    """

    def __init__(self, servers: int, dispatch: str) -> None:
        self._dispatch, self._free, self._turn = dispatch, [-math.inf] * servers, 0

    def starts(self, arrivals: Sequence[float], services: Sequence[float], users: Sequence[int]) -> list[float]:
        """Return when the next prompts start, in order of arrival; prompt number k is that of user `users[k]`."""
        if self._dispatch == "shared":
            return self._shared_starts(arrivals, services)
        count, turn = len(self._free), self._turn
        self._turn += len(arrivals)
        of = users if self._dispatch == "sticky" else range(turn, self._turn)
        return _fixed_starts(arrivals, services, [each % count for each in of], self._free)

    def _shared_starts(self, arrivals: Sequence[float], services: Sequence[float]) -> list[float]:
        free = self._free
        found: list[float] = []
        starts = found.append
        for at, service in zip(arrivals, services, strict=True):
            start = free[0]
            if at > start:
                start = at
            heapreplace(free, start + service)
            starts(start)
        return found


def serve_users(
    users: int,
    send: Callable[[int, int, float, int], tuple[float, float] | None],
    servers: int = 1,
    dispatch: Dispatch = "sticky",
) -> Passages:
    """Simulate a closed load: a user's next prompt arrives after the end of the last one, the first one at 0.

    `send(user, iteration, at, server)` returns the service time of the prompt that is due at `at`, and the pause after
    its end, or None if the user has finished; it is called in order of arrival.
    """
    passages = Passages()
    station = _station(servers, dispatch)
    route, admit = station.route, station.admit
    due = [(0.0, user, 0) for user in range(users)]
    while due:
        at, user, iteration = heappop(due)
        server = route(at, user)
        if (sent := send(user, iteration, at, server)) is None:
            continue
        service, pause = sent
        start = admit(server, at, service)
        passages.arrivals.append(at)
        passages.starts.append(start)
        passages.ends.append(start + service)
        passages.servers.append(server)
        heappush(due, (start + service + pause, user, iteration + 1))
    return passages


def _station(servers: int, dispatch: Dispatch) -> _Station:
    if servers < 1:
        raise UsageError(f"servers={servers!r} is not a whole number of at least 1")
    if dispatch not in get_args(Dispatch):
        raise UsageError(f"dispatch={dispatch!r}: legal: {', '.join(get_args(Dispatch))}")
    if servers == 1:
        return _OneServer()
    if dispatch == "shared":
        return _SharedQueue(servers)
    return _LeastQueue(servers) if dispatch == "least_queue" else _FixedServer(servers, dispatch)


class _OneServer:
    def __init__(self) -> None:
        self._free = float("-inf")

    def route(self, at: float, user: int) -> int:
        return 0

    def admit(self, server: int, at: float, service: float) -> float:
        start = at if at > self._free else self._free
        self._free = start + service
        return start


class _SharedQueue:
    def __init__(self, servers: int) -> None:
        self._free = [(float("-inf"), server) for server in range(servers)]

    def route(self, at: float, user: int) -> int:
        return self._free[0][1]

    def admit(self, server: int, at: float, service: float) -> float:
        free = self._free[0][0]
        start = at if at > free else free
        heapreplace(self._free, (start + service, server))
        return start


class _LeastQueue:
    def __init__(self, servers: int) -> None:
        self._ends: list[deque[float]] = [deque() for _ in range(servers)]
        # By turn: the order in which the servers are considered.
        self._orders = [[*range(turn, servers), *range(turn)] for turn in range(servers)]
        self._turn = 0

    def route(self, at: float, user: int) -> int:
        chosen, fewest = 0, float("inf")
        for server in self._orders[self._turn % len(self._ends)]:
            queue = self._ends[server]
            while queue and queue[0] <= at:
                queue.popleft()
            if len(queue) < fewest:
                chosen, fewest = server, len(queue)
            if not queue:
                break
        return chosen

    def admit(self, server: int, at: float, service: float) -> float:
        self._turn += 1
        queue = self._ends[server]
        start = queue[-1] if queue else at
        queue.append(start + service)
        return start


class _FixedServer:
    def __init__(self, servers: int, dispatch: Dispatch) -> None:
        self._lines = [_OneServer() for _ in range(servers)]
        self._by_user = dispatch == "sticky"
        self._turn = 0

    def route(self, at: float, user: int) -> int:
        return (user if self._by_user else self._turn) % len(self._lines)

    def admit(self, server: int, at: float, service: float) -> float:
        self._turn += 1
        return self._lines[server].admit(0, at, service)
