"""First come, first served by one or more servers: a prompt starts when it has come and a server is free for it.

The recursion for any arrivals and any service times (G/G/c): Lindley's for one server, Kiefer and Wolfowitz's for
several with one shared queue. Times are seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush, heapreplace
from typing import Literal, get_args

from pytest_comfyload.errors import UsageError

__all__ = ["Dispatch", "Passages", "serve", "serve_users"]

# Who serves a prompt: whoever is free first; or, chosen when it comes and for good, the server with the fewest prompts
# (the first of them), each in turn, or always the same one for a user.
Dispatch = Literal["shared", "least_queue", "round_robin", "sticky"]

# Takes (arrival, service time, user) and gives the start.
_Station = Callable[[float, float, int], float]


@dataclass(frozen=True, slots=True)
class Passages:
    """When each prompt came, started and ended, in order of arrival."""

    arrivals: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)

    @property
    def waits(self) -> list[float]:
        return [start - arrival for arrival, start in zip(self.arrivals, self.starts, strict=True)]


def serve(
    arrivals: Sequence[float], services: Sequence[float], servers: int = 1, dispatch: Dispatch = "shared"
) -> Passages:
    """An open load: each prompt comes at its time, whatever became of the others; prompt number k is user k.

    Raises: UsageError when `arrivals` are out of order, or not as many as `services`.
    """
    passages = Passages(list(arrivals))
    if passages.arrivals != sorted(passages.arrivals) or len(services) != len(arrivals):
        raise UsageError(f"{len(arrivals)} arrivals in ascending order need as many service times, not {len(services)}")
    admit = _station(servers, dispatch)
    for user, (at, service) in enumerate(zip(passages.arrivals, services, strict=True)):
        start = admit(at, service, user)
        passages.starts.append(start)
        passages.ends.append(start + service)
    return passages


def serve_users(
    users: int,
    send: Callable[[int, int, float], tuple[float, float] | None],
    servers: int = 1,
    dispatch: Dispatch = "sticky",
) -> Passages:
    """A closed load: a user's next prompt comes after the end of the last one; the first ones come at 0.

    `send(user, iteration, at)` gives the service time of the prompt due at `at` and the pause after its end, or None
    when the user is through; it is called in order of arrival.
    """
    passages = Passages()
    admit = _station(servers, dispatch)
    due = [(0.0, user, 0) for user in range(users)]
    while due:
        at, user, iteration = heappop(due)
        if (sent := send(user, iteration, at)) is None:
            continue
        service, pause = sent
        start = admit(at, service, user)
        passages.arrivals.append(at)
        passages.starts.append(start)
        passages.ends.append(start + service)
        heappush(due, (start + service + pause, user, iteration + 1))
    return passages


def _station(servers: int, dispatch: Dispatch) -> _Station:
    if servers < 1:
        raise UsageError(f"servers={servers!r} is not a whole number of at least 1")
    if dispatch not in get_args(Dispatch):
        raise UsageError(f"dispatch={dispatch!r}: legal are {', '.join(get_args(Dispatch))}")
    if servers == 1:
        return _one_server()
    if dispatch == "shared":
        return _shared_queue(servers)
    return _least_queue(servers) if dispatch == "least_queue" else _fixed_server(servers, dispatch)


def _one_server() -> _Station:
    free = float("-inf")

    def admit(at: float, service: float, user: int) -> float:
        nonlocal free
        start = at if at > free else free
        free = start + service
        return start

    return admit


def _shared_queue(servers: int) -> _Station:
    free = [float("-inf")] * servers

    def admit(at: float, service: float, user: int) -> float:
        start = at if at > free[0] else free[0]
        heapreplace(free, start + service)
        return start

    return admit


def _least_queue(servers: int) -> _Station:
    ends: list[deque[float]] = [deque() for _ in range(servers)]

    def admit(at: float, service: float, user: int) -> float:
        for queue in ends:
            while queue and queue[0] <= at:
                queue.popleft()
        shortest = min(ends, key=len)
        start = shortest[-1] if shortest else at
        shortest.append(start + service)
        return start

    return admit


def _fixed_server(servers: int, dispatch: Dispatch) -> _Station:
    stations = [_one_server() for _ in range(servers)]
    turn = -1

    def admit(at: float, service: float, user: int) -> float:
        nonlocal turn
        turn += 1
        return stations[(user if dispatch == "sticky" else turn) % servers](at, service, user)

    return admit
