"""What a fleet is worth to its people: waits, good days, use of the servers, cost."""

from __future__ import annotations

import itertools
import math
import operator
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import compress
from typing import Literal

from pytest_comfyload.capacity.fleet import Affinity, Demand, Fleet, Ran
from pytest_comfyload.capacity.gpus import GpuKind
from pytest_comfyload.capacity.service_fit import GpuServices
from pytest_comfyload.capacity.simulation import simulate
from pytest_comfyload.capacity.workload import Arrived
from pytest_comfyload.metrics.replay import statistics_of
from pytest_comfyload.metrics.slo import Slo

__all__ = ["Asked", "Evaluation", "Strategy", "Variant", "evaluate", "good_days", "holds"]

Strategy = Literal["vertical", "horizontal", "queue", "serverless"]


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run servers. `main`: it stands for its strategy where all are compared."""

    strategy: Strategy
    title: str
    fleet: Fleet
    main: bool = True


# One person in so many goes first where there are priorities.
PRIORITY_PEOPLE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What a fleet did with the prompts of many days. Times are seconds of total time, shares from 0 to 1.

    gpus: all of them; with autoscaling, the most that were at work at once. days_held: days on which the SLO held, of
    `days`. p95_busiest: of the prompts of the busiest hour of all days. paid_over_busy: seconds paid for each second of
    work. cost, wh: dollars and watt hours; None where they are not known; `wh_is_bound`: it is not more than that.
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
        """Return whether the SLO held on such a share of the days."""
        return self.days_held >= share * self.days


@dataclass(frozen=True, eq=False)
class Asked:
    """What prompts ask of one kind of GPU, by prompt; made once, and judged under many fleets.

    rest: what is added to the time from arrival to the end of the service, to make the total time; seconds.
    """

    arrived: Arrived
    services: GpuServices
    occupied: list[float]
    generation: list[float]
    rest: list[float]
    # The last that was simulated: one that was found is judged next.
    _last: dict[Fleet, Ran] = field(default_factory=dict)

    @classmethod
    def of(cls, arrived: Arrived, services: GpuServices) -> Asked:
        pools = [each.services for each in services.workflows]
        sizes = [len(pool) for pool in pools]
        pairs = zip(arrived.kinds, arrived.quantiles, strict=True)
        # Where each prompt's service is in all pools one after the other.
        before = list(itertools.accumulate(sizes, initial=0))
        drawn = [before[kind] + int(quantile * sizes[kind]) for kind, quantile in pairs]
        pool = [service for each in pools for service in each]
        columns = (
            [service.occupied for service in pool],
            [service.generation for service in pool],
            [service.generation - service.occupied + service.outside for service in pool],
        )
        occupied, generation, rest = (list(map(column.__getitem__, drawn)) for column in columns)
        return cls(arrived, services, occupied, generation, rest)

    def of_first(self, people: int) -> Asked:
        """Return what the first so many people ask."""
        keep = [person < people for person in self.arrived.people]
        columns = (self.occupied, self.generation, self.rest)
        occupied, generation, rest = (list(compress(column, keep)) for column in columns)
        return Asked(self.arrived.kept(keep), self.services, occupied, generation, rest)

    @cached_property
    def demand(self) -> Demand:
        """What is simulated: all days in a row, since queues last over midnight."""
        arrived = self.arrived
        several = len(self.services.workflows) > 1 and self.services.model_load > 0
        return Demand(
            arrived.at,
            self.occupied,
            people=arrived.people,
            models=arrived.kinds if several else (),
            until=arrived.days * arrived.day,
        )

    @cached_property
    def ends_of_days(self) -> list[int]:
        """How many prompts had come by the end of each day."""
        arrived = self.arrived
        return [bisect_left(arrived.at, (day + 1) * arrived.day) for day in range(arrived.days)]

    @cached_property
    def images(self) -> float:
        """How many images the prompts make."""
        counts = Counter(self.arrived.kinds)
        return math.fsum(counts[kind] * each.images for kind, each in enumerate(self.services.workflows))

    @cached_property
    def in_busiest_hour(self) -> list[bool]:
        hour, busiest = self.arrived.hour, self.arrived.busiest
        return [int(at // hour) % 24 == busiest for at in self.arrived.at]

    @cached_property
    def quarter(self) -> Asked:
        """What is asked on the first quarter of the days."""
        days = self.arrived.days // 4
        end = self.ends_of_days[days - 1]
        part = self.arrived.of_first_days(days, end)
        return Asked(part, self.services, self.occupied[:end], self.generation[:end], self.rest[:end])

    def unloaded(self) -> Ran:
        """Return what becomes of prompts that never wait."""
        at = self.arrived.at
        return Ran(at, at, list(map(operator.add, at, self.occupied)), range(len(at)), 0.0)

    def served_by(self, fleet: Fleet) -> Ran:
        """Simulate a fleet; where there are several models, a server that runs another one loads it."""
        if fleet.servers == 1:  # nothing is to be balanced
            fleet = replace(fleet, dispatch="shared")
        if fleet not in self._last:
            ran = self._simulate(fleet)
            self._last.clear()
            self._last[fleet] = ran
        return self._last[fleet]

    def _simulate(self, fleet: Fleet) -> Ran:
        demand = self.demand
        if demand.models and fleet.affinity is None and fleet.autoscaling is None:
            fleet = replace(fleet, affinity=Affinity(switch=self.services.model_load))
        if fleet.queue == "priority":
            demand = replace(demand, priorities=[person % PRIORITY_PEOPLE != 0 for person in demand.people])
        return simulate(demand, fleet)

    def times(self, metric: str, ran: Ran) -> list[float]:
        """Return the `queue_time`, `generation_time` or `total_time` of each prompt, in seconds."""
        if metric == "queue_time":
            return ran.waits
        return self.generation if metric == "generation_time" else list(map(operator.add, ran.ends, self._after_end))

    @cached_property
    def _after_end(self) -> list[float]:
        """What makes total time of the end of a service, prompt by prompt."""
        return list(map(operator.sub, self.rest, self.arrived.at))


def holds(asked: Asked, variant: Variant, gpus: int, slo: Slo, share: float) -> bool:
    """Return whether the SLO holds on such a share of the days; too few GPUs are found out on the first of them."""
    fleet, days = replace(variant.fleet, servers=gpus), asked.arrived.days
    allowed = days - math.ceil(share * days)
    # Of a fleet that scales one is judged, and not the least of many.
    if fleet.autoscaling is None and days // 4 > allowed:
        few = asked.quarter
        if few.arrived.days - good_days(few, few.served_by(fleet), slo) > allowed:
            return False
    return days - good_days(asked, asked.served_by(fleet), slo) <= allowed


def evaluate(asked: Asked, gpu: GpuKind | None, variant: Variant, gpus: int, slo: Slo) -> Evaluation:
    """Judge so many GPUs, run as the variant has it."""
    fleet, arrived = replace(variant.fleet, servers=gpus), asked.arrived
    ran = asked.served_by(fleet)
    total = asked.times("total_time", ran)
    at_work = peak(ran) if fleet.autoscaling else gpus
    p50, p95, p99 = statistics_of(total, (50, 95, 99))
    busiest = list(compress(total, asked.in_busiest_hour))
    occupied = math.fsum(compress(asked.occupied, asked.in_busiest_hour))
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
        p95_busiest=statistics_of(busiest, (95,))[0] if busiest else math.nan,
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
    """Return how many servers were at work at once, at most."""
    ends, most, ended = sorted(ran.ends), 0, 0
    for begun, start in enumerate(sorted(ran.starts), 1):
        while ends[ended] <= start:
            ended += 1
        most = max(most, begun - ended)
    return most


def good_days(asked: Asked, ran: Ran, slo: Slo) -> int:
    """Count the days on whose prompts the SLO holds; one without prompts is good."""
    begin, good = 0, 0
    judged = [(condition, asked.times(condition.metric, ran)) for condition in slo.conditions]
    for end in asked.ends_of_days:
        good += end == begin or all(each.held_by(times[begin:end]) for each, times in judged)
        begin = end
    return good


def _cost_per_second(gpu: GpuKind | None, *, serverless: bool) -> float | None:
    if gpu is None or gpu.price is None:
        return None
    return gpu.price.per_second if serverless else gpu.price.always_on_per_second


def _energy(
    services: GpuServices, gpu: GpuKind | None, paid: float, busy: float, images: float
) -> tuple[float | None, bool]:
    """Wh of an image; True where it is only known that it is not more."""
    if services.joules is not None and gpu is not None and gpu.idle_watts is not None:
        return (services.joules + gpu.idle_watts * max(0.0, paid - busy) / images) / 3600, False
    if gpu is None or gpu.board_watts is None:
        return None, False
    return gpu.board_watts * paid / images / 3600, True
