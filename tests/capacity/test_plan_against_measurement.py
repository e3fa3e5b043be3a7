"""Servers take the times that the simulation predicts for a schedule; `bench_plan` has the full table."""

from __future__ import annotations

import statistics
from pathlib import Path

from tests.benchmarks.bench_plan import measured_services, planned_and_sent, servers_of


def test_two_simulators_wait_as_predicted(tmp_path: Path) -> None:
    """A service takes 0.1 s of wall time; a busy machine may add part of that, but much less than the queue."""
    with servers_of("simulators", tmp_path, time_scale=100) as plan:
        services = measured_services(plan, prompts=40)
        rows = planned_and_sent(plan, services, rho=0.7, prompts=60, seed=1)
    mean = next(row for row in rows if (row.time, row.statistic) == ("server", "mean"))
    assert len(services) == 40
    assert mean.predicted > 1.5 * statistics.fmean(service.occupied for service in services)
    assert abs(mean.error) < 25, str(mean)
