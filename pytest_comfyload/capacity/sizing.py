"""Sizing: the fewest GPUs for a number of people, and the most people for a number of GPUs, on the same draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

from pytest_comfyload.capacity.arrived import HOUR, Arrived
from pytest_comfyload.capacity.evaluation import Asked, Evaluation, Variant, evaluate, good_days, holds
from pytest_comfyload.capacity.fleet import Fleet
from pytest_comfyload.capacity.gpus import GpuKind
from pytest_comfyload.capacity.service_fit import GpuServices
from pytest_comfyload.capacity.solve import greatest
from pytest_comfyload.capacity.workload import MOST_PEOPLE, Workload
from pytest_comfyload.metrics.slo import Slo

__all__ = ["MOST_GPUS", "Sizer"]

MOST_GPUS = 1024
# Limits of the search for the most people, in days and in prompts.
DAYS_OF_A_SEARCH = 40
PROMPTS_OF_A_SEARCH = 200_000
PRECISION = 0.05
# Factors by which the search steps until it has gone too far; the smaller one is for a good guess.
STEP, NEAR = 1.5, 1.1


class Population:
    """People who are drawn as needed; drawing more of them does not change what the first ones send."""

    def __init__(self, workload: Workload, days: int) -> None:
        self.days = days
        self._workload = workload
        self._people, self._all = 0, Arrived.none(days, workload.day.busiest)

    def first(self, people: int) -> Arrived:
        """Return what the first `people` people send."""
        if people > self._people:
            self._all = self._all.with_more(self._workload.drawn(range(self._people, people), self.days))
            self._people = people
        return self._all if people == self._people else self._all.of_first(people)


@dataclass
class Sizer:
    """Sizing of fleets for one workload and SLO; `share` is the share of days on which the SLO has to be met."""

    workload: Workload
    slo: Slo
    share: float
    _population: Population = field(init=False)
    _asked: dict[GpuServices, Asked] = field(init=False, default_factory=dict)
    _numbers: dict[tuple[GpuServices, Fleet], int | None] = field(init=False, default_factory=dict)
    _evaluations: dict[tuple[GpuServices, GpuKind | None, Fleet], Evaluation] = field(init=False, default_factory=dict)
    _most: dict[tuple[GpuServices, Fleet], int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._population = Population(self.workload, min(self.workload.days, DAYS_OF_A_SEARCH))

    @property
    def _searches_all_days(self) -> bool:
        return self.workload.recorded is None and self.workload.days == self._population.days

    @cached_property
    def arrived(self) -> Arrived:
        """The prompts of all people."""
        workload = self.workload
        return self._population.first(workload.people) if self._searches_all_days else workload.draw()

    def least(self, services: GpuServices, gpu: GpuKind | None, variant: Variant) -> Evaluation | None:
        """Return the evaluation of the fewest GPUs that can serve all people; None if no number can."""
        number = self.least_number(services, variant)
        return None if number is None else self.evaluate(services, gpu, variant, number)

    def least_number(self, services: GpuServices, variant: Variant) -> int | None:
        """Return the fewest GPUs that can serve all people, or None; with autoscaling, the most that may be on."""
        key = services, variant.fleet
        if key not in self._numbers:
            self._numbers[key] = self._least_for(self._asked_of(services), variant, self.workload.prompts_per_day)
        return self._numbers[key]

    def least_for(self, people: int, services: GpuServices, variant: Variant) -> int | None:
        """Return the fewest GPUs that can serve `people` people of the population, on the days of a search."""
        prompts = self.workload.prompts_per_day * people / self.workload.people
        return self._least_for(self._asked_by(people, services), variant, prompts)

    def _least_for(self, asked: Asked, variant: Variant, prompts_per_day: float) -> int | None:
        if variant.fleet.autoscaling is not None:
            return MOST_GPUS if holds(asked, variant, MOST_GPUS, self.slo, self.share) else None
        # More than the mean work of the busiest hour keeps busy: fewer would be enough only by luck.
        busy = prompts_per_day * self.workload.busiest_share * asked.services.mean(self.workload.mix) / HOUR
        guess = min(MOST_GPUS, math.floor(busy) + 1)
        if variant.fleet.dispatch != "shared":  # nor would fewer than with a shared queue be enough
            guess = max(guess, self._numbers.get((asked.services, replace(variant.fleet, dispatch="shared"))) or 0)
        return _least(
            lambda gpus: holds(asked, variant, gpus, self.slo, self.share),
            guess,
            lambda: not self._holds_unloaded(asked),
        )

    def evaluate(self, services: GpuServices, gpu: GpuKind | None, variant: Variant, gpus: int) -> Evaluation:
        key = services, gpu, replace(variant.fleet, servers=gpus)
        if key not in self._evaluations:
            self._evaluations[key] = evaluate(self._asked_of(services), gpu, variant, gpus, self.slo)
        return self._evaluations[key]

    def holds_unloaded(self, services: GpuServices) -> bool:
        """Return whether the SLO is met if no prompt ever waits."""
        return self._holds_unloaded(self._asked_of(services))

    def _holds_unloaded(self, asked: Asked) -> bool:
        return good_days(asked, asked.unloaded(), self.slo) >= self.share * asked.arrived.days

    def _asked_of(self, services: GpuServices) -> Asked:
        if services not in self._asked:
            self._asked[services] = Asked.of(self.arrived, services)
        return self._asked[services]

    def holds_one(self, services: GpuServices, variant: Variant, gpus: int) -> bool:
        """Return whether `gpus` GPUs can serve one person."""
        return holds(self._asked_by(1, services), variant, gpus, self.slo, self.share)

    def most_people(self, services: GpuServices, variant: Variant, gpus: int, guess: int | None = None) -> int:
        """Return the most people that `gpus` GPUs can serve, if each sends as much as in the workload.

        The GPUs must be able to serve the people of the workload. No more than `most_searched` people are tried.
        """
        dispatch = variant.fleet.dispatch if gpus > 1 else "shared"
        key = services, replace(variant.fleet, servers=gpus, dispatch=dispatch)
        if key not in self._most:
            # Another way to run the same number of GPUs can serve about as many people.
            near = [people for (each, fleet), people in self._most.items() if (each, fleet.servers) == (services, gpus)]
            guess = guess or next(iter(near), None)
            self._most[key] = greatest(
                lambda people: holds(self._asked_by(people, services), variant, gpus, self.slo, self.share),
                self.workload.people,
                self.most_searched,
                guess=guess or int(STEP * self.workload.people),
                precision=PRECISION,
                step=NEAR if guess else STEP,
            )
        return self._most[key]

    @property
    def most_searched(self) -> int:
        """The most people that are tried: as many as can be drawn in about a second."""
        prompts = self.workload.prompts_per_day * self._population.days
        affordable = min(MOST_PEOPLE, self.workload.people * PROMPTS_OF_A_SEARCH / prompts)
        return max(2 * self.workload.people, int(affordable))

    def with_people(
        self, people: int, services: GpuServices, gpu: GpuKind | None, variant: Variant, gpus: int
    ) -> Evaluation:
        """Evaluate GPUs for another number of people of the same population."""
        return evaluate(self._asked_by(people, services), gpu, variant, gpus, self.slo)

    def _asked_by(self, people: int, services: GpuServices) -> Asked:
        if people == self.workload.people and self._searches_all_days:
            return self._asked_of(services)
        return Asked.of(self._population.first(people), services)


def _least(holds: Callable[[int], bool], good: int, is_hopeless: Callable[[], bool] = lambda: False) -> int | None:
    """Return the least number for which `holds` is true, or None; `holds` must be monotonic.

    `good` is a guess, preferably too small. `is_hopeless` is called only before numbers become large: for small ones,
    `holds` fails early, which is cheaper than that call.
    """
    bad, guess, step = 0, good, 1
    while not holds(good):
        if good >= MOST_GPUS or (good > 2 * guess and is_hopeless()):
            return None
        bad, good = good, min(good + max(1, good - guess), MOST_GPUS)
    while good - bad > 1:
        middle = max((good + bad) // 2, good - step)
        good, bad = (middle, bad) if holds(middle) else (good, middle)
        step *= 2
    return good
