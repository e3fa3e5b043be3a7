"""The event loop agrees with the recursion where both apply, and otherwise has the invariants of every fleet."""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.capacity.event_loop import EventLoop
from pytest_comfyload.capacity.fleet import (
    KEDA,
    RAY_SERVE,
    Affinity,
    Autoscaling,
    Balancing,
    Demand,
    Discipline,
    Failures,
    Fleet,
    Ran,
)
from pytest_comfyload.capacity.simulation import simulate
from pytest_comfyload.errors import UsageError

TIMES = st.floats(0, 100)
# Not 0: it is undefined which of two servers takes a prompt that ends as soon as it starts.
SERVICES = st.floats(0.001, 100)
SMALL = st.integers(0, 2)
DISCIPLINES: tuple[Discipline, ...] = get_args(Discipline)
BALANCINGS: tuple[Balancing, ...] = get_args(Balancing)
QUEUES, DISPATCHES = st.sampled_from(DISCIPLINES), st.sampled_from(BALANCINGS)
FAILURES = st.none() | st.builds(Failures, mean_time_between=st.floats(110, 1000), repair=TIMES)
AFFINITIES = st.none() | st.builds(Affinity, switch=st.floats(0, 10), overtake=TIMES)
AUTOSCALINGS = st.builds(
    Autoscaling,
    cold_start=TIMES,
    idle=TIMES,
    minimum=st.integers(0, 1),
    prompts_per_server=st.floats(1, 4),
    poll=st.sampled_from([0.0, 1.0, 30.0]),
    delay=st.sampled_from([0.0, 20.0]),
)


@st.composite
def demands(draw: st.DrawFn) -> Demand:
    # Gap before the arrival, service, person, priority, model.
    rows = draw(st.lists(st.tuples(TIMES, SERVICES, SMALL, SMALL, SMALL), min_size=1, max_size=30))
    gaps, services, people, priorities, models = zip(*rows, strict=True)
    return Demand(list(itertools.accumulate(gaps)), services, people, priorities, models)


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    autoscaling = draw(st.none() | AUTOSCALINGS)
    dispatch: Balancing = "shared" if autoscaling else draw(DISPATCHES)
    servers = draw(st.integers(1, 4))
    return Fleet(servers, draw(QUEUES), dispatch, draw(AFFINITIES), autoscaling, draw(FAILURES))


def poisson(n: int, per_second: float, mean: float, seed: int = 1, kinds: int = 3) -> Demand:
    """Return Poisson arrivals with exponential services; person, priority and model are independent of them."""
    rng = random.Random(seed)
    arrivals = list(itertools.accumulate(rng.expovariate(per_second) for _ in range(n)))
    services = [rng.expovariate(1 / mean) for _ in range(n)]
    people, priorities, models = ([rng.randrange(kinds) for _ in range(n)] for _ in range(3))
    return Demand(arrivals, services, people, priorities, models)


def of_equal_services(demand: Demand, seconds: float) -> Demand:
    return replace(demand, services=[seconds] * len(demand.arrivals))


# --- exact ---


@given(demands(), st.integers(1, 4), DISPATCHES, st.none() | st.builds(Affinity, switch=TIMES), st.integers(0, 9))
def test_the_loop_is_the_recursion(
    demand: Demand, servers: int, dispatch: Balancing, affinity: Affinity | None, seed: int
) -> None:
    fleet = Fleet(servers, "fifo", dispatch, affinity)
    assert fleet.recursive
    recursion = simulate(demand, fleet, seed)
    users = [] if dispatch not in ("sticky", "random") else demand.people
    if dispatch == "random":  # the servers that the recursion drew
        users = recursion.servers
    loop = EventLoop(demand, fleet, users, seed).run()
    assert (loop.starts, loop.ends, loop.servers) == (recursion.starts, recursion.ends, recursion.servers)
    assert (loop.switches, loop.paid) == (recursion.switches, recursion.paid)
    assert loop.busy == pytest.approx(recursion.busy)


@given(demands(), st.integers(1, 4), st.builds(Autoscaling, cold_start=TIMES, idle=TIMES))
def test_servers_on_demand_are_those_of_the_loop(demand: Demand, servers: int, scaling: Autoscaling) -> None:
    fleet = Fleet(servers, autoscaling=scaling)
    assert fleet.on_demand
    ran, loop = simulate(demand, fleet), EventLoop(demand, fleet, (), 0).run()
    assert (ran.starts, ran.ends, ran.servers) == (loop.starts, loop.ends, loop.servers)
    assert ran.cold_starts == loop.cold_starts
    assert ran.paid == pytest.approx(loop.paid)


@given(AUTOSCALINGS, QUEUES, AFFINITIES, FAILURES)
def test_what_needs_the_loop_is_not_on_demand(
    scaling: Autoscaling, queue: Discipline, affinity: Affinity | None, failures: Failures | None
) -> None:
    fleet = Fleet(2, queue, "shared", affinity, scaling, failures)
    plain = replace(scaling, cold_start=0.0, idle=0.0) == Autoscaling(0.0, 0.0)
    assert fleet.on_demand == (plain and queue == "fifo" and affinity is None and failures is None)


def test_priorities_by_hand() -> None:
    demand = Demand([0, 1, 2, 3], [10, 10, 10, 10], priorities=[0, 1, 0, 1])
    assert simulate(demand, Fleet(1, "priority")).starts == [0, 20, 10, 30]


def test_fairness_by_hand() -> None:
    """One person sends three prompts at once; each of the two of another person runs after one of these."""
    demand = Demand([0, 0, 0, 1, 1], [10] * 5, people=[7, 7, 7, 8, 8])
    assert simulate(demand, Fleet(1, "fair")).starts == [0, 20, 40, 10, 30]


def test_affinity_by_hand() -> None:
    """Model 0 is loaded: its second prompt overtakes the one of model 1, which has waited too long after that."""
    demand = Demand([0, 1, 2, 3], [10] * 4, models=[0, 1, 0, 0])
    ran = simulate(demand, Fleet(1, affinity=Affinity(switch=5, overtake=15)))
    assert ran.starts == [0, 25, 15, 40]
    assert ran.switches == 3
    assert ran.busy == ran.paid == 55


def test_a_prompt_goes_to_the_idle_server_that_has_its_model() -> None:
    demand = Demand([0, 1, 20, 21], [10] * 4, models=[0, 1, 1, 0])
    assert simulate(demand, Fleet(2, affinity=Affinity(5, overtake=1))).servers == [0, 1, 1, 0]
    assert simulate(demand, Fleet(2, affinity=Affinity(5))).servers == [0, 1, 0, 1]


def test_autoscaling_by_hand() -> None:
    """The first two prompts start a server each; the third finds a warm one; servers stop after 20 idle seconds."""
    demand = Demand([0, 1, 50, 200], [10] * 4)
    ran = simulate(demand, Fleet(3, autoscaling=Autoscaling(cold_start=30, idle=20)))
    assert ran.starts == [30, 31, 50, 230]
    assert ran.servers == [0, 1, 1, 0]
    assert ran.cold_starts == 3
    assert ran.paid == (60 - 0) + (80 - 1) + (260 - 200)


def test_the_least_number_of_servers_is_always_on() -> None:
    autoscaling = Autoscaling(cold_start=30, idle=20, minimum=1)
    ran = simulate(Demand([100], [10], until=1000), Fleet(3, autoscaling=autoscaling))
    assert (ran.starts, ran.paid, ran.cold_starts) == ([100], 1000, 0)


def test_the_presets_wait_before_they_start_servers() -> None:
    demand = Demand([1, 1, 1], [100] * 3)
    # It polls at 30 s.
    assert simulate(demand, Fleet(9, autoscaling=KEDA)).starts == [75, 75, 75]
    # At two prompts per server, a server is missing as of 1 s.
    assert simulate(demand, Fleet(9, autoscaling=RAY_SERVE)).starts == [1, 76, 101]


def test_servers_that_are_no_longer_missing_are_not_started() -> None:
    demand = Demand([0, 0, 0, 40, 40, 40], [10] * 6)
    autoscaling = Autoscaling(cold_start=1, idle=60, minimum=1, prompts_per_server=2, delay=15)
    assert simulate(demand, Fleet(9, autoscaling=autoscaling)).cold_starts == 0


def test_a_failure_begins_the_prompt_anew() -> None:
    demand = poisson(2000, per_second=0.05, mean=10)
    sound = simulate(demand, Fleet(1))
    failing = simulate(demand, Fleet(1, failures=Failures(mean_time_between=400, repair=60)))
    assert failing.failures > 50
    assert statistics.fmean(failing.waits) > 1.2 * statistics.fmean(sound.waits)
    assert failing.busy > sound.busy
    # The server is paid for while it is being repaired or idle.
    assert failing.paid == max(failing.ends)


# --- invariants of every fleet ---


@given(demands(), fleets(), st.integers(0, 9))
def test_prompts_run_once_and_alone_on_a_server_that_is_paid(demand: Demand, fleet: Fleet, seed: int) -> None:
    ran = simulate(demand, fleet, seed)
    assert ran == simulate(demand, fleet, seed)
    assert all(wait >= 0 for wait in ran.waits)
    switch = fleet.affinity.switch if fleet.affinity else 0.0
    for start, end, service in zip(ran.starts, ran.ends, demand.services, strict=True):
        assert min(abs(end - start - service), abs(end - start - service - switch)) < 1e-9
    for server in range(fleet.servers):
        periods = sorted(_periods(ran, server))
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(periods))
        assert sum(end - start for start, end in periods) <= ran.busy_of(server) + 1e-9
    assert ran.paid >= ran.busy - 1e-9
    assert ran.failures or ran.busy == pytest.approx(sum(demand.services) + switch * ran.switches)


def _periods(ran: Ran, server: int) -> Iterator[tuple[float, float]]:
    for start, end, at in zip(ran.starts, ran.ends, ran.servers, strict=True):
        if at == server:
            yield start, end


@given(demands(), st.integers(1, 4), QUEUES, AFFINITIES)
def test_no_server_idles_while_a_prompt_waits(
    demand: Demand, servers: int, queue: Discipline, affinity: Affinity | None
) -> None:
    ran = simulate(demand, Fleet(servers, queue, affinity=affinity))
    for arrival, start in zip(demand.arrivals, ran.starts, strict=True):
        for server in range(servers) if start > arrival else ():
            # The server is busy from the arrival to the start: its periods leave no gap in between.
            inside = sorted((a, b) for a, b in _periods(ran, server) if b > arrival and a < start)
            covered = arrival
            for begin, end in inside:
                assert begin <= covered
                covered = max(covered, end)
            assert covered >= start


@given(demands(), st.integers(1, 4), TIMES, DISPATCHES)
def test_of_equal_services_no_discipline_waits_less_in_all(
    demand: Demand, servers: int, seconds: float, dispatch: Balancing
) -> None:
    """The order changes who waits, not how much in total; a queue for each server only adds to the total."""
    demand = of_equal_services(demand, seconds)
    fifo = simulate(demand, Fleet(servers))
    for queue in DISCIPLINES:
        ran = simulate(demand, Fleet(servers, queue))
        assert sorted(ran.starts) == fifo.starts
    routed = simulate(demand, Fleet(servers, dispatch=dispatch))
    assert all(a <= b for a, b in zip(fifo.starts, sorted(routed.starts), strict=True))


@given(demands(), st.integers(1, 3))
def test_another_server_delays_no_prompt(demand: Demand, servers: int) -> None:
    fewer, more = (simulate(demand, Fleet(count)) for count in (servers, servers + 1))
    assert all(a <= b for a, b in zip(more.starts, fewer.starts, strict=True))


# --- on average ---


def test_priority_and_fairness_keep_the_mean_wait_and_move_the_rest() -> None:
    """In expectation this is exact if services are independent of who requests them."""
    demand = poisson(100_000, per_second=0.4, mean=4.5, kinds=2)
    waits = {queue: simulate(demand, Fleet(2, queue)).waits for queue in DISCIPLINES}
    fifo = statistics.fmean(waits["fifo"])
    assert statistics.fmean(waits["priority"]) == pytest.approx(fifo, rel=0.02)
    assert statistics.fmean(waits["fair"]) == pytest.approx(fifo, rel=0.02)
    by_priority = [
        statistics.fmean(itertools.compress(waits["priority"], (each == wanted for each in demand.priorities)))
        for wanted in (0, 1)
    ]
    assert 5 * by_priority[0] < by_priority[1]


def test_fairness_protects_the_others_from_one_who_sends_many() -> None:
    calm = poisson(20_000, per_second=0.1, mean=4)
    # Every 1,000 s person 9 sends fifty prompts at once.
    flood = [(1000.0 * number, 4.0, 9) for number in range(int(calm.arrivals[-1] / 1000)) for _ in range(50)]
    rows = sorted([*zip(calm.arrivals, calm.services, calm.people, strict=True), *flood])
    arrivals, services, people = zip(*rows, strict=True)
    demand = Demand(arrivals, services, people)
    others = [person != 9 for person in people]
    fifo, fair = (
        statistics.fmean(itertools.compress(simulate(demand, Fleet(1, queue)).waits, others))
        for queue in DISCIPLINES
        if queue != "priority"
    )
    assert 3 * fair < fifo


def test_a_shared_queue_is_not_worse_than_others() -> None:
    for seed in range(10):
        demand = poisson(3000, per_second=0.3, mean=10, seed=seed)
        means = {
            dispatch: statistics.fmean(simulate(demand, Fleet(4, dispatch=dispatch), seed).waits)
            for dispatch in BALANCINGS
        }
        assert min(means, key=means.__getitem__) == "shared"
        assert means["least_queue"] < means["random"]


def test_affinity_saves_switches_and_waits() -> None:
    demand = poisson(20_000, per_second=0.8, mean=10, kinds=4)
    blind, affine = (simulate(demand, Fleet(12, affinity=Affinity(5, overtake))) for overtake in (0, 30))
    assert affine.switches < 0.8 * blind.switches
    assert 2 * statistics.fmean(affine.waits) < statistics.fmean(blind.waits)


# --- invalid ---


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"arrivals": [0, 1], "services": [1]}, "2 arrivals need as many services, not 1"),
        ({"arrivals": [0], "services": [1], "models": [1, 2]}, "1 arrivals need as many models, not 2"),
        ({"arrivals": [1, 0], "services": [1, 1]}, "ascending order"),
        ({"arrivals": [-1], "services": [1]}, "arrivals: -1 is not a number of seconds of at least 0"),
        ({"arrivals": [0, float("nan")], "services": [1, 1]}, "ascending order"),
        ({"arrivals": [0], "services": [float("inf")]}, "services: inf is not"),
        ({"arrivals": [], "services": [], "until": -5}, "until: -5 is not"),
    ],
)
def test_invalid_demand(arguments: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Demand(**arguments)


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda: Fleet(0), "servers=0 is not a whole number of at least 1"),
        (lambda: Fleet(1, cast("Discipline", "lifo")), "queue='lifo': legal: fifo, priority, fair"),
        (lambda: Fleet(1, dispatch=cast("Balancing", "x")), "dispatch='x': legal: shared, least_queue, .*, random"),
        (lambda: Fleet(1, dispatch="random", autoscaling=KEDA), "dispatch='random' with autoscaling: legal is shared"),
        (lambda: Fleet(1, autoscaling=Autoscaling(1, 1, minimum=2)), "minimum=2 exceeds servers=1"),
        (lambda: Autoscaling(-1, 1), "cold_start=-1 is not"),
        (lambda: Autoscaling(1, 1, prompts_per_server=0.5), "prompts_per_server=0.5 is not a number of at least 1"),
        (lambda: Autoscaling(1, 1, minimum=-1), "minimum=-1 is not"),
        (lambda: Affinity(float("nan")), "switch=nan is not"),
        (lambda: Failures(0, 1), "mean_time_between=0 is not positive"),
        (lambda: Failures(1, -1), "repair=-1 is not"),
        (
            lambda: simulate(Demand([0], [9]), Fleet(failures=Failures(5, 1))),
            "mean_time_between=5 is less than the longest prompt needs, 9 s",
        ),
    ],
)
def test_an_invalid_fleet(build: Callable[[], object], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        build()


def test_nothing_to_serve() -> None:
    assert simulate(Demand([], [], until=10), Fleet(2)).paid == 20
    assert simulate(Demand([], []), Fleet(2, "fair", autoscaling=KEDA)).paid == 0
