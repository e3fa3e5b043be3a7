"""The invariants of every queue hold for the recursion: no overtaking, no idle server while a prompt waits for it."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.queueing import Dispatch, OngoingQueue, Passages, serve, serve_users

TIMES = st.floats(0, 100)
# (gap before the arrival, service time)
LOADS = st.lists(st.tuples(TIMES, TIMES), min_size=1, max_size=40)
SERVERS = st.integers(1, 4)
DISPATCHES = st.sampled_from(["shared", "least_queue", "round_robin", "sticky"])


def _load(pairs: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return list(itertools.accumulate(gap for gap, _ in pairs)), [service for _, service in pairs]


def test_one_server_by_hand() -> None:
    passages = serve([0, 1, 2, 10], [3, 1, 1, 1])
    assert passages.starts == [0, 3, 4, 10]
    assert passages.ends == [3, 4, 5, 11]
    assert passages.waits == [0, 2, 2, 0]


@pytest.mark.parametrize(
    ("dispatch", "starts"),
    [
        ("shared", [0, 0, 1, 2]),  # the first free server
        ("least_queue", [0, 0, 10, 1]),  # at 0 both have one, and ties go to the first; then the second has fewer
        ("round_robin", [0, 0, 10, 1]),
    ],
)
def test_two_servers_by_hand(dispatch: Dispatch, starts: list[float]) -> None:
    assert serve([0, 0, 0, 0], [10, 1, 1, 1], 2, dispatch).starts == starts


def test_least_queue_counts_only_who_is_still_there() -> None:
    # When the third prompt arrives, the second server is idle and the first is not.
    assert serve([0, 0, 2], [10, 1, 5], 2, "least_queue").starts == [0, 0, 2]
    assert serve([0, 0, 2], [10, 1, 5], 2, "round_robin").starts == [0, 0, 10]


@given(LOADS, SERVERS, DISPATCHES)
def test_nobody_starts_before_coming_and_service_takes_its_time(
    pairs: list[tuple[float, float]], servers: int, dispatch: Dispatch
) -> None:
    arrivals, services = _load(pairs)
    passages = serve(arrivals, services, servers, dispatch)
    assert all(wait >= 0 for wait in passages.waits)
    assert passages.ends == [start + service for start, service in zip(passages.starts, services, strict=True)]
    assert all(_in_service(passages, start) <= servers for start in passages.starts)


@given(LOADS, SERVERS, st.sampled_from(["shared", "round_robin", "sticky"]), st.integers(0, 40))
def test_a_load_in_two_pieces_is_served_as_a_whole(
    pairs: list[tuple[float, float]], servers: int, dispatch: Dispatch, first: int
) -> None:
    arrivals, services = _load(pairs)
    users = [k * k % 7 for k in range(len(pairs))]
    line, pieces = OngoingQueue(servers, dispatch), (slice(first), slice(first, None))
    starts = [start for piece in pieces for start in line.starts(arrivals[piece], services[piece], users[piece])]
    assert starts == serve(arrivals, services, servers, dispatch, users).starts


@given(LOADS, SERVERS)
def test_a_shared_queue_is_in_order_and_conserves_work(pairs: list[tuple[float, float]], servers: int) -> None:
    arrivals, services = _load(pairs)
    passages = serve(arrivals, services, servers)
    assert passages.starts == sorted(passages.starts)
    for k, (arrival, start) in enumerate(zip(arrivals, passages.starts, strict=True)):
        # Until it starts, all servers are busy with earlier prompts.
        ahead = [end for end in passages.ends[:k] if end >= start]
        assert start == arrival or len(ahead) >= servers


@given(LOADS, SERVERS)
def test_a_server_of_its_own_queue_is_in_order(pairs: list[tuple[float, float]], servers: int) -> None:
    passages = serve(*_load(pairs), servers, "round_robin")
    for server in range(servers):
        ends, starts = passages.ends[server::servers], passages.starts[server::servers]
        arrivals = passages.arrivals[server::servers]
        before = [-math.inf, *ends[:-1]]
        assert starts == [max(pair) for pair in zip(arrivals, before[: len(arrivals)], strict=True)]


@given(LOADS, SERVERS, st.data())
def test_longer_services_start_nobody_earlier(
    pairs: list[tuple[float, float]], servers: int, data: st.DataObject
) -> None:
    arrivals, services = _load(pairs)
    longer = [service + data.draw(TIMES) for service in services]
    before, after = serve(arrivals, services, servers), serve(arrivals, longer, servers)
    assert all(late >= early for early, late in zip(before.starts, after.starts, strict=True))


@given(LOADS, SERVERS)
def test_one_server_more_starts_nobody_later(pairs: list[tuple[float, float]], servers: int) -> None:
    arrivals, services = _load(pairs)
    fewer, more = serve(arrivals, services, servers), serve(arrivals, services, servers + 1)
    assert all(early <= late for early, late in zip(more.starts, fewer.starts, strict=True))


@given(st.integers(1, 6), st.integers(1, 5), SERVERS, DISPATCHES, st.integers(0, 2**32))
def test_users_are_an_open_load_that_comes_when_they_come(
    users: int, iterations: int, servers: int, dispatch: Dispatch, seed: int
) -> None:
    rng = random.Random(seed)
    services: list[float] = []
    owners: list[int] = []

    def send(user: int, iteration: int, at: float, server: int) -> tuple[float, float] | None:
        if iteration == iterations:
            return None
        services.append(rng.uniform(1, 10))
        owners.append(user)
        return services[-1], rng.uniform(0, 5)

    closed = serve_users(users, send, servers, dispatch)
    assert sorted(owners) == sorted(list(range(users)) * iterations)
    if dispatch != "sticky":  # in a sticky open load, each prompt has its own user
        assert serve(closed.arrivals, services, servers, dispatch) == closed
    for user in range(users):
        mine = [k for k, owner in enumerate(owners) if owner == user]
        assert all(closed.arrivals[b] >= closed.ends[a] for a, b in itertools.pairwise(mine))


def test_sticky_users_wait_for_their_own_server() -> None:
    def send(user: int, iteration: int, at: float, server: int) -> tuple[float, float] | None:
        return ([10.0, 1.0, 1.0][user], 0.0) if iteration == 0 else None

    assert serve_users(3, send, 2, "sticky").starts == [0, 0, 10]
    assert serve_users(3, send, 2, "least_queue").starts == [0, 0, 10]
    assert serve_users(3, send, 2, "shared").starts == [0, 0, 1]


def test_what_cannot_be_served() -> None:
    with pytest.raises(UsageError, match="ascending"):
        serve([2, 1], [1, 1])
    with pytest.raises(UsageError, match="2 arrivals"):
        serve([1, 2], [1])
    with pytest.raises(UsageError, match="servers=0"):
        serve([1], [1], 0)
    with pytest.raises(UsageError, match="legal: shared, least_queue"):
        serve([1], [1], 2, "fastest")  # type: ignore[arg-type]


def _in_service(passages: Passages, at: float) -> int:
    return sum(1 for start, end in zip(passages.starts, passages.ends, strict=True) if start <= at < end)
