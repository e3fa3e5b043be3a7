"""Evaluation of a fleet: waits, good days, utilization of the servers, cost."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from pytest_comfyload.capacity.arrived import Arrived
from pytest_comfyload.capacity.columns import (
    Column,
    column,
    counts,
    equal,
    greatest,
    hours_of,
    listed,
    minus,
    places,
    plus,
    select,
    take,
    total_of,
)
from pytest_comfyload.capacity.fleet import Affinity, Demand, Fleet, Ran
from pytest_comfyload.capacity.gpus import GpuKind
from pytest_comfyload.capacity.service_fit import GpuServices
from pytest_comfyload.capacity.simulation import simulate
from pytest_comfyload.metrics.load_plan import Service
from pytest_comfyload.metrics.queueing import OngoingQueue
from pytest_comfyload.metrics.replay import statistics_of
from pytest_comfyload.metrics.slo import Slo

__all__ = ["Asked", "Evaluation", "Strategy", "Variant", "evaluate", "good_days", "holds"]

Strategy = Literal["vertical", "horizontal", "queue", "serverless"]


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run servers. `main`: it represents its strategy when all strategies are compared."""

    strategy: Strategy
    title: str
    fleet: Fleet
    main: bool = True


# One person in this many goes first under priorities.
PRIORITY_PEOPLE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How a fleet served the prompts of many days. Times are seconds of total time, shares are from 0 to 1.

    gpus: all GPUs; with autoscaling, the most that were at work at once. days_held: days, out of `days`, on which the
    SLO was met. p95_busiest: of the prompts in the busiest hour of all days. paid_over_busy: seconds paid per second of
    work. cost, wh: dollars and watt hours, None if unknown. wh_is_bound: `wh_per_image` is an upper bound.
    """

    gpus: int
    days: int
    days_held: int
    p50: float
    p95: float
    p99: float
    p95_busiest: float
    utilization: float
    utilization_busiest: float
    paid_over_busy: float
    paid_per_day: float
    cost_per_day: float | None
    cost_per_image: float | None
    wh_per_image: float | None
    wh_is_bound: bool

    def holds(self, share: float) -> bool:
        """Return whether the SLO was met on this share of the days."""
        return self.days_held >= share * self.days


# The slice of a day's prompts among all prompts, and the starts and ends of these.
_Day = tuple[slice, Column, Column]


@dataclass(frozen=True, eq=False)
class Asked:
    """The demand of prompts on one kind of GPU; built once, and evaluated for many fleets.

    drawn: the index of each prompt's service in the concatenated services of all workflows.
    """

    arrived: Arrived
    services: GpuServices
    drawn: Column
    # The last simulation: a fleet that a search has found is evaluated next.
    _last: dict[Fleet, Ran] = field(default_factory=dict)

    @classmethod
    def of(cls, arrived: Arrived, services: GpuServices) -> Asked:
        sizes = [len(each.services) for each in services.workflows]
        return cls(arrived, services, places(arrived.quantiles, arrived.kinds, sizes))

    @cached_property
    def occupied(self) -> Column:
        """Seconds for which each prompt occupies a server."""
        return self._column(lambda service: service.occupied)

    @cached_property
    def generation(self) -> Column:
        """Seconds of each prompt's generation."""
        return self._column(lambda service: service.generation)

    @cached_property
    def _after_end(self) -> Column:
        """Seconds to add to the end of each prompt's service to get its total time."""
        rest = self._column(lambda service: service.generation - service.occupied + service.outside)
        return minus(rest, self.arrived.at)

    def _column(self, seconds: Callable[[Service], float]) -> Column:
        pool = [seconds(service) for each in self.services.workflows for service in each.services]
        return take(column(pool), self.drawn)

    @cached_property
    def demand(self) -> Demand:
        """The input of the simulation: all days in a row, since queues last past midnight."""
        arrived = self.arrived
        return Demand(
            listed(arrived.at),
            listed(self.occupied),
            people=listed(arrived.people),
            models=listed(arrived.kinds) if self._loads_models else (),
            until=arrived.days * arrived.day,
        )

    @property
    def _loads_models(self) -> bool:
        """Whether there are several models, so that servers have to load them."""
        return len(self.services.workflows) > 1 and self.services.model_load > 0

    @cached_property
    def _days(self) -> list[slice]:
        arrived = self.arrived
        ends = [bisect_left(arrived.at, (day + 1) * arrived.day) for day in range(arrived.days - 1)]
        return list(itertools.starmap(slice, itertools.pairwise((0, *ends, len(arrived)))))

    @cached_property
    def images(self) -> float:
        """The number of images that the prompts generate."""
        kinds = counts(self.arrived.kinds, len(self.services.workflows))
        return math.fsum(count * each.images for count, each in zip(kinds, self.services.workflows, strict=True))

    @cached_property
    def in_busiest_hour(self) -> Column:
        return equal(hours_of(self.arrived.at, self.arrived.hour), self.arrived.busiest)

    def unloaded(self) -> Ran:
        """Return the result for prompts that never wait."""
        at = self.arrived.at
        return Ran(at, at, plus(at, self.occupied), (), 0.0)

    def served_by(self, fleet: Fleet) -> Ran:
        """Simulate a fleet; the servers on which prompts ran may be left out."""
        for _ in self.days_served_by(fleet):
            pass
        return next(iter(self._last.values()))

    def days_served_by(self, fleet: Fleet) -> Iterator[_Day]:
        """Simulate a fleet and yield its days; where possible, days are simulated lazily."""
        if fleet.servers == 1:  # there is nothing to balance
            fleet = replace(fleet, dispatch="shared")
        if fleet in self._last:
            yield from self.days_of(self._last[fleet])
        elif fleet.is_line and not self._loads_models:
            yield from self._in_line(fleet)
        else:
            ran = self._simulate(fleet)
            self._keep(fleet, ran)
            yield from self.days_of(ran)

    def days_of(self, ran: Ran) -> Iterator[_Day]:
        return ((day, ran.starts[day], ran.ends[day]) for day in self._days)

    def _in_line(self, fleet: Fleet) -> Iterator[_Day]:
        demand, queue = self.demand, OngoingQueue(fleet.servers, fleet.dispatch)
        starts: list[float] = []
        for day in self._days:
            begun = queue.starts(demand.arrivals[day], demand.services[day], demand.people[day])
            starts += begun
            yield day, begun, plus(begun, self.occupied[day])
        ends = plus(starts, self.occupied)
        paid = fleet.servers * max(demand.until, greatest(ends))
        self._keep(fleet, Ran(self.arrived.at, column(starts), ends, (), paid))

    def _simulate(self, fleet: Fleet) -> Ran:
        demand = self.demand
        if demand.models and fleet.affinity is None and fleet.autoscaling is None:
            fleet = replace(fleet, affinity=Affinity(switch=self.services.model_load))
        if fleet.queue == "priority":
            demand = replace(demand, priorities=[person % PRIORITY_PEOPLE != 0 for person in demand.people])
        return simulate(demand, fleet)

    def _keep(self, fleet: Fleet, ran: Ran) -> None:
        self._last.clear()
        self._last[fleet] = ran

    def times(self, metric: str, day: _Day) -> Column:
        """Return the `queue_time`, `generation_time` or `total_time` of prompts, in seconds."""
        of, starts, ends = day
        if metric == "queue_time":
            return minus(starts, self.arrived.at[of])
        return self.generation[of] if metric == "generation_time" else plus(ends, self._after_end[of])


def holds(asked: Asked, variant: Variant, gpus: int, slo: Slo, share: float) -> bool:
    """Return whether the SLO is met on this share of the days; stop on the first day that rules it out."""
    allowed = asked.arrived.days - math.ceil(share * asked.arrived.days)
    for day in asked.days_served_by(replace(variant.fleet, servers=gpus)):
        allowed -= not _is_good(asked, day, slo)
        if allowed < 0:
            return False
    return True


def evaluate(asked: Asked, gpu: GpuKind | None, variant: Variant, gpus: int, slo: Slo) -> Evaluation:
    """Evaluate `gpus` GPUs that are run as in the variant."""
    fleet, arrived = replace(variant.fleet, servers=gpus), asked.arrived
    ran = asked.served_by(fleet)
    total = asked.times("total_time", (slice(None), ran.starts, ran.ends))
    at_work = peak(ran) if fleet.autoscaling else gpus
    p50, p95, p99 = statistics_of(total, (50, 95, 99))
    busiest = select(total, asked.in_busiest_hour)
    occupied = total_of(select(asked.occupied, asked.in_busiest_hour))
    seconds, images = arrived.days * arrived.day, asked.images or 1.0
    paid = ran.paid if fleet.autoscaling else gpus * seconds
    cost = _cost_per_second(gpu, serverless=fleet.autoscaling is not None)
    wh, bound = _energy(asked.services, gpu, paid, ran.busy, images)
    return Evaluation(
        gpus=at_work,
        days=arrived.days,
        days_held=good_days(asked, ran, slo),
        p50=p50,
        p95=p95,
        p99=p99,
        p95_busiest=statistics_of(busiest, (95,))[0] if len(busiest) else math.nan,
        utilization=ran.busy / paid if paid else 0.0,
        utilization_busiest=occupied / (at_work * arrived.days * arrived.hour) if at_work else 0.0,
        paid_over_busy=paid / ran.busy if ran.busy else math.inf,
        paid_per_day=paid / arrived.days,
        cost_per_day=None if cost is None else cost * paid / arrived.days,
        cost_per_image=None if cost is None else cost * paid / images,
        wh_per_image=wh,
        wh_is_bound=bound,
    )


def peak(ran: Ran) -> int:
    """Return the largest number of servers that were at work at once."""
    ends, most, ended = sorted(ran.ends), 0, 0
    for begun, start in enumerate(sorted(ran.starts), 1):
        while ends[ended] <= start:
            ended += 1
        most = max(most, begun - ended)
    return most


def good_days(asked: Asked, ran: Ran, slo: Slo) -> int:
    """Return the number of days on which the SLO is met; a day without prompts is good."""
    return sum(_is_good(asked, day, slo) for day in asked.days_of(ran))


def _is_good(asked: Asked, day: _Day, slo: Slo) -> bool:
    return len(day[1]) == 0 or all(each.held_by(asked.times(each.metric, day)) for each in slo.conditions)


def _cost_per_second(gpu: GpuKind | None, *, serverless: bool) -> float | None:
    if gpu is None or gpu.price is None:
        return None
    return gpu.price.per_second if serverless else gpu.price.always_on_per_second


def _energy(
    services: GpuServices, gpu: GpuKind | None, paid: float, busy: float, images: float
) -> tuple[float | None, bool]:
    """Return the watt hours per image, and whether that is only an upper bound."""
    if services.joules is not None and gpu is not None and gpu.idle_watts is not None:
        return (services.joules + gpu.idle_watts * max(0.0, paid - busy) / images) / 3600, False
    if gpu is None or gpu.board_watts is None:
        return None, False
    return gpu.board_watts * paid / images / 3600, True
