"""A replay interval covers what a rerun of the plan measures about nine times in ten."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable

import pytest

from pytest_comfyload.metrics.intervals import Interval, percentile
from pytest_comfyload.metrics.load_plan import Arrivals, Plan, Pools, Service, Times, Users, play
from pytest_comfyload.metrics.replay import replay, runs_of


def _poisson(rng: random.Random, prompts: int, gap: float) -> Arrivals:
    return Arrivals(tuple(itertools.accumulate(rng.expovariate(1 / gap) for _ in range(prompts))))


def _services(rng: random.Random, n: int) -> list[Service]:
    return [Service.of(rng.lognormvariate(0, 0.3)) for _ in range(n)]


def _each(*services: Service) -> Callable[[int, int], Service]:
    return lambda k, server: services[k]


def _p95(times: Times) -> float:
    return percentile(times.total_time, 95)


def test_percentiles_are_nearest_rank() -> None:
    assert percentile([4, 1, 3, 2], 50) == 2
    assert percentile(range(1, 101), 95) == 95
    assert percentile([1, math.inf], 95) == math.inf
    assert math.isnan(percentile([], 95))


def test_a_total_is_wait_generation_and_the_rest() -> None:
    times = play(Arrivals((0, 1)), _each(Service(4, 3, 0.5), Service(5, 2, 0.25)))
    assert times == Times(queue_time=[0, 3], generation_time=[3, 2], total_time=[3.5, 5.25])


def test_a_burst_is_a_ramp() -> None:
    times = play(Arrivals.burst(4), lambda k, server: Service.of(2))
    assert times.total_time == [2, 4, 6, 8]


def test_a_failure_holds_the_server_and_is_never_done() -> None:
    times = play(Arrivals.burst(2), _each(Service(4, math.inf), Service.of(1)))
    assert times.queue_time == [0, 4]
    assert times.total_time == [math.inf, 5]


def test_users_stop_by_iterations_or_when_time_is_over() -> None:
    by_count = play(Users(2, iterations=3, think_time=10), lambda k, server: Service.of(1))
    assert by_count.queue_time == [0, 1, 0, 0, 0, 0]
    by_time = play(Users(1, duration=5, think_time=0.5), lambda k, server: Service.of(2))
    assert len(by_time.queue_time) == 2  # sent at 0 and 2.5; at 5 the time is over


def test_prompts_of_users_are_numbered_by_iteration_then_user() -> None:
    drawn: list[int] = []

    def draw(k: int, server: int) -> Service:
        drawn.append(k)
        return Service.of([3.0, 1.0][k % 2])

    play(Users(2, iterations=2), draw, servers=2)
    assert drawn == [0, 1, 3, 2]  # the second user is back first


def test_the_users_share_what_they_have_to_send() -> None:
    times = play(Users(2, shared=3), lambda k, server: Service.of(1))
    assert times.queue_time == [0, 1, 1]


def test_each_prompt_has_a_pause_of_its_own() -> None:
    times = play(Users(2, iterations=2, pauses=(5, 0)), lambda k, server: Service.of(1))
    assert times.queue_time == [0, 1, 0, 0]  # the second user is back at 2, the first one at 6


def test_every_prompt_is_redrawn_from_its_own_pool() -> None:
    light, heavy = [Service.of(1)], [Service.of(10)]
    plan = Arrivals((0, 100, 200, 300))
    played = runs_of(plan, Pools([[light], [heavy]], [0, 0, 1, 0]), random.Random(1), runs=3)
    assert [times.generation_time for times in played] == [[1, 1, 10, 1]] * 3


def test_every_server_has_services_of_its_own() -> None:
    slow, fast = [Service.of(10)], [Service.of(1)]
    plan = Arrivals.burst(4)
    (times,) = runs_of(plan, Pools([[slow, fast]]), random.Random(1), servers=2, runs=1)
    assert times.generation_time == [10, 1, 1, 1]  # the first free server
    played = runs_of(plan, Pools([[slow, fast]]), random.Random(1), servers=2, dispatch="round_robin", runs=1)
    assert next(played).generation_time == [10, 1, 10, 1]


def test_equal_services_leave_no_doubt() -> None:
    assert replay(Arrivals.burst(60), [Service.of(2)], _p95, random.Random(1), runs=20) == Interval(114, 114)


def test_the_same_seed_gives_the_same_interval() -> None:
    pool = _services(random.Random(1), 50)
    plan = Users(5, iterations=10)
    one, two, other = (replay(plan, pool, _p95, random.Random(seed), runs=50) for seed in (3, 3, 4))
    assert one == two != other


@pytest.mark.parametrize(
    ("plan", "servers"),
    [
        (_poisson(random.Random(7), 100, gap=1 / 0.7), 1),
        (_poisson(random.Random(7), 100, gap=1 / 1.4), 2),
        (Users(10, iterations=10), 1),
        (Arrivals.burst(60), 1),
    ],
    ids=["poisson", "poisson on two", "users", "burst"],
)
def test_coverage_of_a_rerun(plan: Plan, servers: int) -> None:
    """Coverage is nominally 90 %, and 75 % where the sample's error doubles the rerun's variance."""
    covered, trials = 0, 100
    for seed in range(trials):
        rng = random.Random(seed)
        interval = replay(plan, _services(rng, 100), _p95, rng, servers=servers, runs=100)
        rerun = _services(rng, 200)
        covered += interval.covers(_p95(play(plan, _each(*rerun), servers)))
    assert 68 <= covered <= 100


def test_a_thousand_runs_of_three_hundred_prompts_take_seconds() -> None:
    rng = random.Random(1)
    began = time.perf_counter()
    replay(_poisson(rng, 300, 1.2), _services(rng, 300), _p95, rng, servers=2)
    assert time.perf_counter() - began < 20
