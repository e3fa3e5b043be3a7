"""A confirmation is one run at a load, held against what the queue model says of that very run."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_comfyload.capacity.solve import System
from pytest_comfyload.metrics.replay import Arrivals, Interval, Plan, Service, Users, replay
from pytest_comfyload.metrics.slo import Condition
from pytest_comfyload.result.load_result import LoadResult

__all__ = ["Confirmation", "confirmation"]

# Of a steady server a replay is narrower than what clocks and heat change from run to run: at least so much of its
# middle on either side refutes no model.
TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Confirmation:
    """`load` in the system's unit; `measured` is the condition's statistic in seconds, `replayed` its 90 % interval,
    widened where it is narrower than tolerance."""

    load: float
    result: LoadResult
    condition: Condition
    measured: float
    replayed: Interval

    @property
    def agrees(self) -> bool:
        return self.replayed.covers(self.measured)

    @property
    def slower(self) -> bool:
        """Than the model has it."""
        return not self.measured <= self.replayed.upper

    def sentence(self, unit: str) -> str:
        lower, upper = self.replayed
        figures = f"{self.condition.name} {self.measured:.3g} s, replayed {lower:.3g}–{upper:.3g} s"
        return f"at {self.load:.3g} {unit} {figures}"


def confirmation(
    result: LoadResult,
    load: float,
    duration: float,
    condition: Condition,
    services: Sequence[Service],
    system: System,
    rng: random.Random,
) -> Confirmation:
    """`result` is a run of `duration` seconds at `load`; `services` were measured without it."""
    replayed = replay(
        _plan_of(result, load, duration, system),
        services,
        condition.statistic,
        rng,
        servers=system.servers,
        dispatch=system.dispatch,
    )
    return Confirmation(load, result, condition, condition.measured(result), _tolerant(replayed))


def _tolerant(interval: Interval) -> Interval:
    middle = (interval.lower + interval.upper) / 2
    return Interval(min(interval.lower, (1 - TOLERANCE) * middle), max(interval.upper, (1 + TOLERANCE) * middle))


def _plan_of(result: LoadResult, load: float, duration: float, system: System) -> Plan:
    """Users send when they are through; arrivals are those of the very schedule that was sent."""
    if system.arrival == "users":
        return Users(int(load), duration=duration, think_time=system.think_time)
    return Arrivals(tuple(sorted(outcome.intended for outcome in result.outcomes)))
