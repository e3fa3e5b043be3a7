"""The formulas agree with each other, with known values, and with the recursion in a long run."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Callable

import pytest

from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.intervals import percentile
from pytest_comfyload.metrics.queueing import serve
from tests.metrics.closed_forms import erlang_c, mg1_mean_wait, mmc_mean_wait, mmc_wait_percentile

CUSTOMERS = 200_000
# Relative: four standard errors of the M/M/1 mean wait over this many customers, which grow like 1/(1 − ρ).
TOLERANCE = {0.3: 0.04, 0.5: 0.05, 0.7: 0.07, 0.8: 0.10, 0.9: 0.19}


def _waits(rho: float, service: Callable[[random.Random], float], servers: int = 1, seed: int = 1) -> list[float]:
    """Return the waits of customers whose mean service time is 1, after a warm-up of 5 %."""
    rng = random.Random(seed)
    arrivals = list(itertools.accumulate(rng.expovariate(rho * servers) for _ in range(CUSTOMERS)))
    return serve(arrivals, [service(rng) for _ in arrivals], servers).waits[CUSTOMERS // 20 :]


def _exponential(rng: random.Random) -> float:
    return rng.expovariate(1)


def _constant(rng: random.Random) -> float:
    return 1.0


def _lognormal(rng: random.Random) -> float:
    """Draw a service time with mean 1 and cv 0.5."""
    sigma = math.sqrt(math.log(1.25))
    return rng.lognormvariate(-(sigma**2) / 2, sigma)


@pytest.mark.parametrize("rho", [0.3, 0.5, 0.7, 0.8, 0.9])
def test_mm1(rho: float) -> None:
    waits = _waits(rho, _exponential)
    assert statistics.fmean(waits) == pytest.approx(mmc_mean_wait(rho, 1), rel=TOLERANCE[rho])
    assert percentile(waits, 95) == pytest.approx(mmc_wait_percentile(95, rho, 1), rel=TOLERANCE[rho])


@pytest.mark.parametrize("servers", [2, 5])
@pytest.mark.parametrize("rho", [0.5, 0.8])
def test_mmc(rho: float, servers: int) -> None:
    waits = _waits(rho, _exponential, servers)
    assert statistics.fmean(waits) == pytest.approx(mmc_mean_wait(rho * servers, 1, servers), rel=TOLERANCE[rho])
    assert sum(wait > 0 for wait in waits) / len(waits) == pytest.approx(erlang_c(servers, rho * servers), rel=0.03)
    expected = mmc_wait_percentile(95, rho * servers, 1, servers)
    assert percentile(waits, 95) == pytest.approx(expected, rel=TOLERANCE[rho])


@pytest.mark.parametrize(("service", "cv"), [(_constant, 0.0), (_lognormal, 0.5)])
@pytest.mark.parametrize("rho", [0.3, 0.5, 0.8, 0.9])
def test_pollaczek_khinchine(rho: float, service: Callable[[random.Random], float], cv: float) -> None:
    assert statistics.fmean(_waits(rho, service)) == pytest.approx(mg1_mean_wait(rho, 1, cv), rel=TOLERANCE[rho])


def test_a_wait_of_seconds_scales_with_the_service() -> None:
    # M/M/1: W = ρ/(μ − λ); M/D/1: half of that.
    assert mmc_mean_wait(0.05, 10) == pytest.approx(10)
    assert mg1_mean_wait(0.05, 10, cv=0) == pytest.approx(5)
    assert mg1_mean_wait(0.05, 10, cv=1) == pytest.approx(mmc_mean_wait(0.05, 10))


def test_erlang_c_known_values() -> None:
    assert erlang_c(1, 0.8) == pytest.approx(0.8)
    assert erlang_c(2, 1) == pytest.approx(1 / 3)  # M/M/2: 2ρ²/(1 + ρ)
    assert erlang_c(3, 0) == 0
    assert erlang_c(3, 3) == 1
    assert 0 < erlang_c(1000, 950) < 1  # no overflow


def test_the_percentile_of_those_who_do_not_wait_is_nothing() -> None:
    assert mmc_wait_percentile(50, 0.3, 1) == 0
    assert mmc_wait_percentile(80, 0.3, 1) > 0


def test_without_equilibrium_the_wait_has_no_end() -> None:
    assert mmc_mean_wait(1, 1) == mmc_wait_percentile(95, 3, 1, 2) == mg1_mean_wait(2, 1, 0) == math.inf


@pytest.mark.parametrize(
    "call",
    [
        lambda: erlang_c(0, 1),
        lambda: erlang_c(1, -1),
        lambda: mmc_mean_wait(-1, 1),
        lambda: mg1_mean_wait(1, 0, 0),
        lambda: mmc_wait_percentile(100, 0.5, 1),
    ],
)
def test_arguments_that_cannot_be_meant(call: Callable[[], float]) -> None:
    with pytest.raises(UsageError):
        call()
