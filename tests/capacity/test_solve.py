"""The solver finds the limit that theory knows."""

from __future__ import annotations

import math
import random

import pytest

from pytest_comfyload.capacity.solve import System, binding, largest, solve
from pytest_comfyload.metrics.load_plan import Service
from pytest_comfyload.metrics.slo import Slo
from tests.metrics.closed_forms import mg1_mean_wait, mmc_mean_wait

EXPONENTIAL = [Service.of(-10 * math.log(1 - (k + 0.5) / 5000)) for k in range(5000)]
CONSTANT = [Service.of(10)] * 100


def test_mm1_sojourn_percentile() -> None:
    # P95 of the total is ln 20 / (μ − λ).
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
    # The least queue is a little worse than a shared one.
    assert 10 < mmc_mean_wait(three / 60, 10, 3) * 1.6 < 17


@pytest.mark.parametrize(
    ("slo", "think_time", "servers", "users"),
    [
        ("total_time.p95 < 60", 0, 1, 5),  # six take exactly 60
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
