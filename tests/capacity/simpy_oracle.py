"""The same fleets as simpy processes: an independent oracle for start times, and a peer for benchmarks."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import simpy

from pytest_comfyload.capacity.fleet import Demand

__all__ = ["starts_by_simpy"]


def starts_by_simpy(demand: Demand, servers: int, *, priorities: bool = False) -> Sequence[float]:
    """Return when each prompt starts: first come, first served, within the same priority if `priorities`."""
    environment = simpy.Environment()
    resource = simpy.PriorityResource(environment, servers)
    ranks = demand.priorities if priorities else [0] * len(demand.arrivals)
    starts = [0.0] * len(demand.arrivals)

    def prompt(k: int) -> Generator[simpy.Event, Any, None]:
        with resource.request(ranks[k]) as request:
            yield request
            starts[k] = environment.now
            yield environment.timeout(demand.services[k])

    def arrive() -> Generator[simpy.Event, Any, None]:
        for k, at in enumerate(demand.arrivals):
            yield environment.timeout(at - environment.now)
            environment.process(prompt(k))

    environment.process(arrive())
    environment.run()
    return starts
