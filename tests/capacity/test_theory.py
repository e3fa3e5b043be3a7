"""The simulation compared with the formulas of queueing theory and with simpy."""

from __future__ import annotations

import statistics
from typing import get_args

import numpy as np
import pytest

from pytest_comfyload.capacity.fleet import Demand, Fleet
from pytest_comfyload.capacity.simulation import simulate
from pytest_comfyload.metrics.queueing import Dispatch, serve
from pytest_comfyload.metrics.replay_arrays import waits_of
from tests.capacity.simpy_oracle import starts_by_simpy
from tests.capacity.test_simulation import poisson
from tests.capacity.theory import MM4, ONE_SERVER, RHOS, KnownQueue, compare
from tests.metrics.closed_forms import mmc_mean_wait

# At least three standard errors of the mean wait of 16 million prompts.
TOLERANCE = {0.5: 0.01, 0.8: 0.01, 0.95: 0.03}


@pytest.mark.parametrize("rho", RHOS)
@pytest.mark.parametrize("queue", ONE_SERVER, ids=lambda queue: queue.name)
def test_one_server(queue: KnownQueue, rho: float) -> None:
    compared = compare(queue, rho, runs=16)
    assert compared.ratio == pytest.approx(1, abs=TOLERANCE[rho])
    assert abs(compared.ratio - 1) <= 1.5 * compared.half_width


@pytest.mark.parametrize(("rho", "millions"), [(0.5, 3), (0.8, 1), (0.95, 1)])
def test_several_servers(rho: float, millions: int) -> None:
    """One server four times as fast gets the same bursts: the ratio of the waits is far steadier than the waits."""
    rng = np.random.default_rng(1)
    several, one = [], []
    for _ in range(2 * millions):
        arrivals, services = MM4.drawn(rho, 500_000, rng)
        several.append(statistics.fmean(simulate(Demand(arrivals.tolist(), services.tolist()), Fleet(4)).waits))
        one.append(float(waits_of(arrivals, services / 4).mean()))
    ratio = statistics.fmean(several) / statistics.fmean(one)
    assert ratio == pytest.approx(MM4.mean_wait(rho) / mmc_mean_wait(4 * rho, 1 / 4), rel=0.01)


@pytest.mark.parametrize("dispatch", get_args(Dispatch))
def test_arrays_and_lists_agree(dispatch: Dispatch) -> None:
    """One server is simulated by arrays, by the recursion and as a fleet."""
    demand = poisson(10_000, per_second=0.08, mean=10)
    waits = serve(demand.arrivals, demand.services, 1, dispatch).waits
    assert simulate(demand, Fleet(1, dispatch=dispatch)).waits == waits
    assert waits_of(np.array(demand.arrivals), np.array(demand.services)) == pytest.approx(waits, abs=1e-6)


@pytest.mark.parametrize("priorities", [False, True])
@pytest.mark.parametrize("servers", [1, 4, 10])
def test_simpy_says_the_same(servers: int, priorities: bool) -> None:
    demand = poisson(5_000, per_second=0.085 * servers, mean=10)
    ran = simulate(demand, Fleet(servers, "priority" if priorities else "fifo"))
    assert ran.starts == pytest.approx(starts_by_simpy(demand, servers, priorities=priorities), abs=1e-6)
