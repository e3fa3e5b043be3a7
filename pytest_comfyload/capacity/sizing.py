"""The least number of GPUs that holds people, and the most people that GPUs hold, on the same draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from pytest_comfyload.capacity.evaluation import Asked, Evaluation, Variant, evaluate, good_days, holds
from pytest_comfyload.capacity.gpus import GpuKind
from pytest_comfyload.capacity.service_fit import GpuServices
from pytest_comfyload.capacity.workload import HOUR, Arrived, Workload
from pytest_comfyload.metrics.slo import Slo

__all__ = ["MOST_GPUS", "Sizer"]

MOST_GPUS = 1024
# The most people are looked for on so many days, and no further than so many prompts.
DAYS_OF_A_SEARCH = 40
PROMPTS_OF_A_SEARCH = 200_000
PRECISION = 0.03


@dataclass
class Sizer:
    """Sizes fleets for one workload and SLO; `share`: of the days on which the SLO has to hold."""

    workload: Workload
    slo: Slo
    share: float
    arrived: Arrived = field(init=False)
    _largest: Arrived | None = field(init=False, default=None)
    _drawn_people: int = field(init=False, default=0)
    _known: dict[GpuServices, Asked] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.arrived = self.workload.draw()

    def evaluate(self, services: GpuServices, gpu: GpuKind | None, variant: Variant, gpus: int) -> Evaluation:
        return evaluate(self._asked(services), gpu, variant, gpus, self.slo)

    def least(self, services: GpuServices, gpu: GpuKind | None, variant: Variant) -> Evaluation | None:
        """Return the evaluation of the least number of GPUs that holds all people; None where no number does."""
        asked = self._asked(services)
        if not self.holds_unloaded(services):
            return None
        if variant.fleet.autoscaling is not None:
            found = self.evaluate(services, gpu, variant, MOST_GPUS)
            return found if found.holds(self.share) else None
        number = _least(lambda gpus: holds(asked, variant, gpus, self.slo, self.share), self._first_guess(services))
        return None if number is None else self.evaluate(services, gpu, variant, number)

    def holds_unloaded(self, services: GpuServices) -> bool:
        """Return whether the SLO holds where no prompt ever waits."""
        asked = self._asked(services)
        return good_days(asked, asked.unloaded(), self.slo) >= self.share * self.arrived.days

    def _asked(self, services: GpuServices) -> Asked:
        if services not in self._known:
            self._known[services] = Asked.of(self.arrived, services)
        return self._known[services]

    def _first_guess(self, services: GpuServices) -> int:
        """As many as the mean work of the busiest hour keeps busy: fewer would not do, except by luck."""
        per_hour = self.workload.prompts_per_day * self.workload.busiest_share
        return min(MOST_GPUS, max(1, math.floor(per_hour * services.mean(self.workload.mix) / HOUR)))

    def most_people(self, services: GpuServices, variant: Variant, gpus: int) -> int:
        """Return how many people, each of whom does what they do now, so many GPUs hold, if they hold those of now.

        No more than `most_searched` are tried.
        """
        return _greatest(
            lambda people: holds(self._asked_by(people, services), variant, gpus, self.slo, self.share),
            self.workload.people,
            self.most_searched,
        )

    @property
    def most_searched(self) -> int:
        """The most people that are tried: those whose prompts can be drawn in a second."""
        prompts = self.workload.prompts_per_day * self._days
        return max(2 * self.workload.people, int(self.workload.people * PROMPTS_OF_A_SEARCH / prompts))

    @property
    def _days(self) -> int:
        return min(self.workload.days, DAYS_OF_A_SEARCH)

    def with_people(
        self, people: int, services: GpuServices, gpu: GpuKind | None, variant: Variant, gpus: int
    ) -> Evaluation:
        """Judge GPUs under other numbers of people, all of one population."""
        return evaluate(self._asked_by(people, services), gpu, variant, gpus, self.slo)

    def _asked_by(self, people: int, services: GpuServices) -> Asked:
        return Asked.of(self._population(people), services)

    def _population(self, people: int) -> Arrived:
        if self._largest is None or people > self._drawn_people:
            self._drawn_people = max(people, self.workload.people)
            self._largest = self.workload.draw(self._drawn_people, self._days)
        return self._largest if people == self._drawn_people else self._largest.of_first(people)


def _least(holds: Callable[[int], bool], good: int) -> int | None:
    """Return the least number that holds, where more hold what fewer do; `good` is a guess from below."""
    bad = 0
    while not holds(good):
        if good >= MOST_GPUS:
            return None
        bad, good = good, min(2 * good, MOST_GPUS)
    while good - bad > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if holds(middle) else (good, middle)
    return good


def _greatest(holds: Callable[[int], bool], good: int, most: int) -> int:
    """Return the greatest number that holds, where `good` does, to three hundredths; `most` where that still holds."""
    bad = min(2 * good, most)
    while holds(bad):
        if bad == most:
            return most
        good, bad = bad, min(2 * bad, most)
    while bad - good > max(1, PRECISION * good):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if holds(middle) else (good, middle)
    return good
