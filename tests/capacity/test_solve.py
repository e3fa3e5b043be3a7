"""The solver finds the limit that queueing theory gives."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest

from pytest_comfyload.capacity.solve import System, binding, capacity_of, largest, solve
from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.load_plan import Service
from pytest_comfyload.metrics.slo import Slo
from pytest_comfyload.result.load_result import LoadCapacity, LoadResult
from pytest_comfyload.result.service_times import services_of
from tests.metrics.closed_forms import mg1_mean_wait, mmc_mean_wait
from tests.result.made import run_of
from tests.result.queued import arrived

EXPONENTIAL = [Service.of(-10 * math.log(1 - (k + 0.5) / 5000)) for k in range(5000)]
CONSTANT = [Service.of(10)] * 100


def test_mm1_sojourn_percentile() -> None:
    # P95 of the total time is ln 20 / (μ − λ).
    rate = largest(Slo.parse("total_time.p95 < 60"), EXPONENTIAL, System("poisson", 1), random.Random(1))
    assert rate == pytest.approx(60 * (1 / 10 - math.log(20) / 60), rel=0.04)


def test_md1_mean_wait() -> None:
    rate = largest(Slo.parse("queue_time.mean < 15"), CONSTANT, System("poisson", 1), random.Random(1))
    assert mg1_mean_wait(rate / 60, 10, cv=0) == pytest.approx(15, rel=0.1)
    assert rate == pytest.approx(4.5, rel=0.04)  # W = ρ·10 / 2(1 − ρ) is 15 at ρ = 0.75


def test_several_servers_bear_more_than_their_sum() -> None:
    slo = Slo.parse("queue_time.mean < 10")
    one, three = (largest(slo, EXPONENTIAL, System("poisson", servers), random.Random(1)) for servers in (1, 3))
    assert three > 3 * one
    # Joining the shortest queue is a little worse than a shared queue.
    assert 10 < mmc_mean_wait(three / 60, 10, 3) * 1.6 < 17


@pytest.mark.parametrize(
    ("slo", "think_time", "servers", "users"),
    [
        ("total_time.p95 < 60", 0, 1, 5),  # six users take exactly 60 s
        ("total_time.p95 <= 60", 0, 1, 6),
        ("total_time.p95 <= 60", 0, 2, 12),
        ("queue_time.p95 < 1", 0, 1, 1),
        ("queue_time.p95 < 1", 30, 1, 4),  # three think while one is served
    ],
)
def test_users_of_a_constant_service(slo: str, think_time: float, servers: int, users: int) -> None:
    system = System("users", servers, think_time)
    estimate = solve(Slo.parse(slo), CONSTANT, system, random.Random(1))
    assert (estimate.lower, estimate.value, estimate.upper) == (users, users, users)


def test_a_bound_below_the_generation_itself() -> None:
    estimate = solve(Slo.parse("total_time.p95 < 9"), CONSTANT, System("poisson", 1), random.Random(1))
    assert (estimate.value, estimate.upper, estimate.by_generation) == (0, 0, True)


def test_generation_alone_is_limited_by_the_servers_speed() -> None:
    estimate = solve(Slo.parse("generation_time.p95 < 11"), CONSTANT, System("poisson", 2), random.Random(1))
    assert (estimate.value, estimate.by_generation) == (12, True)


def test_failures_count() -> None:
    failing = CONSTANT[:90] + [Service(10, math.inf)] * 10
    assert largest(Slo.parse("total_time.p95 < 60"), failing, System("poisson", 1), random.Random(1)) == 0
    assert largest(Slo.parse("total_time.p80 < 60"), failing, System("poisson", 1), random.Random(1)) > 1


def test_the_binding_condition_is_the_one_that_fails_first() -> None:
    slo = Slo.parse("generation_time.p95 < 11 and queue_time.p95 < 500 and total_time.p95 < 60")
    system, rng = System("poisson", 1), random.Random(1)
    value = largest(slo, CONSTANT, system, rng)
    assert binding(slo, CONSTANT, system, rng, value).name == "total_time.p95"
    assert value == pytest.approx(largest(Slo.parse("total_time.p95 < 60"), CONSTANT, system, rng), rel=0.03)


def test_the_interval_narrows_with_the_sample() -> None:
    slo, system = Slo.parse("total_time.p95 < 60"), System("poisson", 1)

    def width(n: int) -> float:
        rng = random.Random(5)
        services = [Service.of(rng.lognormvariate(2.2, 0.3)) for _ in range(n)]
        estimate = solve(slo, services, system, rng)
        assert estimate.lower < estimate.value < estimate.upper
        return (estimate.upper - estimate.lower) / estimate.value

    assert 0.08 < width(100) < 0.25
    assert width(800) < 0.6 * width(100)


def sized(load: LoadResult, slo: str = "total_time.p95 < 60", think_time: float | str = "45s") -> LoadCapacity:
    load.sized_by = capacity_of
    return load.capacity(slo, think_time)


def test_a_load_says_what_its_servers_bear() -> None:
    """Service takes exactly 10 s (M/D/c), and a person's cycle is 55 s per prompt while nobody waits."""
    load = arrived([20.0 * k for k in range(100)], lambda k, server: 10.0)
    capacity = sized(load)
    direct = solve(
        Slo.parse("total_time.p95 < 60"), services_of([load.measured]), System("poisson", 1), random.Random(1)
    )
    assert capacity.prompts_per_minute == pytest.approx(direct.value, rel=0.05)
    assert 0 < capacity.prompts_per_minute < 6
    assert capacity.prompts_per_minute.n == 100
    # If all came at once, a seventh person would wait for six prompts of 10 s; about 5.5 keep the server busy.
    assert 6 <= capacity.people <= 12


def test_twice_the_servers_bear_about_twice_as_much() -> None:
    one, two = (sized(arrived([20.0 * k for k in range(100)], lambda k, server: 10.0, servers)) for servers in (1, 2))
    assert 1.8 < float(two.prompts_per_minute) / float(one.prompts_per_minute) < 3
    assert 1.8 < float(two.people) / float(one.people) < 3


def test_a_part_of_a_load_is_sized_by_its_own_services() -> None:
    load = arrived([20.0 * k for k in range(100)], lambda k, server: 5.0 if k < 50 else 10.0)
    load.sized_by = capacity_of
    first, second = load.between(0, 990), load.between(1000, 1990)
    slo = "total_time.p95 < 60"
    assert float(first.capacity(slo).prompts_per_minute) > 1.5 * float(second.capacity(slo).prompts_per_minute)


def test_a_part_by_workflow_has_the_pauses_of_the_whole_run() -> None:
    """The prompts of the other workflow that run between its own do not count as pauses."""
    sent = arrived([0.0] * 100, lambda k, server: 10.0).outcomes
    load = run_of(*(dataclasses.replace(each, workflow="ab"[k % 2]) for k, each in enumerate(sent)))
    load.sized_by = capacity_of
    whole, part = (each.capacity("total_time.p95 < 60") for each in (load, load.by("workflow")["a"]))
    assert float(part.prompts_per_minute) == pytest.approx(float(whole.prompts_per_minute), rel=0.02)


def test_an_slo_without_a_queue_and_a_result_without_a_test_are_refused() -> None:
    load = arrived([20.0, 40.0], lambda k, server: 10.0)
    with pytest.raises(UsageError, match="is for the results of loads that a test has run"):
        load.capacity("total_time.p95 < 60")
    for slo, said in {"generation_time.p95 < 60": "does not depend on the load", "fast": "cannot be parsed"}.items():
        with pytest.raises(UsageError, match=said):
            sized(load, slo)
    with pytest.raises(UsageError, match="think_time"):
        sized(load, think_time=-1)
