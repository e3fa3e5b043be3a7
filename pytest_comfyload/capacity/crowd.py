"""How many people a set of servers can serve; `find_capacity(people=...)` describes what one person does in a day."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_comfyload.capacity.columns import listed
from pytest_comfyload.capacity.evaluation import Variant
from pytest_comfyload.capacity.fleet import Fleet
from pytest_comfyload.capacity.service_fit import GpuServices, WorkflowServices
from pytest_comfyload.capacity.sizing import Sizer
from pytest_comfyload.capacity.solve import SolvedLoad, System, solved_load
from pytest_comfyload.capacity.workload import DayProfile, Workload, WorkStyle
from pytest_comfyload.errors import UsageError, nearest
from pytest_comfyload.metrics.load_plan import Service
from pytest_comfyload.metrics.slo import Condition, Slo

__all__ = ["Crowd"]

# Number of bootstrap samples for the interval.
RESAMPLES = 10
_LEAST_QUEUE = Variant("horizontal", "least queue", Fleet(dispatch="least_queue"))
_LEGAL = ("images_per_day", "day", "work", "on_days")


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd(System):
    """A system whose load is a number of people, each of whom sends what the one person of `workload` sends.

    Prompts go to the server that has the fewest. The SLO has to be met on `share` of the days, from 0 to 1.
    """

    workload: Workload
    share: float = 0.95

    @classmethod
    def parse(cls, given: object, servers: int, seed: int = 0) -> Crowd:
        """Read `{"images_per_day": 10, "day": "office", "work": "sessions", "on_days": 95}`. Raises: UsageError."""
        if not isinstance(given, Mapping) or "images_per_day" not in given:
            raise UsageError(f"people={given!r}: give a dict of what one person does, such as {{'images_per_day': 10}}")
        for name in given:
            if name not in _LEGAL:
                raise UsageError(f"people: unknown key {name!r}; legal: {nearest(str(name), _LEGAL)}")
        images, share = _number(given, "images_per_day", 1.0, 10_000), _number(given, "on_days", 95.0, 100)
        style = WorkStyle.parse(str(given.get("work", "sessions")), "people: work")
        workload = Workload(1, images, _day(given.get("day", "office")), style, seed=seed)
        return cls(arrival="poisson", servers=servers, workload=workload, share=share / 100)

    @property
    def unit(self) -> str:
        return "people"

    def largest(self, slo: Slo, services: Sequence[Service], rng: random.Random) -> float:
        return self._most(Sizer(self.workload, slo, self.share), services)

    def _most(self, sizer: Sizer, services: Sequence[Service], guess: int | None = None) -> int:
        one = WorkflowServices("", tuple(sorted(services)), "measured", measured=True)
        known = GpuServices(None, "servers", (one,))
        if not sizer.holds_one(known, _LEAST_QUEUE, self.servers):
            return 0
        return sizer.most_people(known, _LEAST_QUEUE, self.servers, guess)

    def solve(self, slo: Slo, services: Sequence[Service], rng: random.Random) -> SolvedLoad:
        sizer = Sizer(self.workload, slo, self.share)
        redrawn = (rng.choices(services, k=len(services)) for _ in range(RESAMPLES))
        value = self._most(sizer, services)
        solved = solved_load(
            slo, services, value, [self._most(sizer, sample, guess=value or None) for sample in redrawn]
        )
        return replace(solved, upper=math.inf) if value == sizer.most_searched else solved

    def binding(self, slo: Slo, services: Sequence[Service], rng: random.Random, value: float) -> Condition:
        return min(slo.conditions, key=lambda condition: condition.metric == "generation_time")

    def schedule(self, load: float, prompts: int) -> tuple[float, ...]:
        """Return when `load` people send `prompts` prompts, starting at the busiest hour of a median day."""
        people = replace(self.workload, people=int(load), images_per_day=self.workload.images_per_day * int(load))
        arrived = people.draw(days=people.days)
        times = listed(arrived.at)
        begins = [arrived.day * day + arrived.hour * arrived.busiest for day in range(arrived.days)]
        counts = sorted((sum(begin <= at < begin + arrived.hour for at in times), begin) for begin in begins[:40])
        begin = counts[len(counts) // 2][1]
        chosen = [at - begin for at in times if at >= begin][:prompts]
        return tuple(chosen)


def _number(given: Mapping[str, Any], name: str, default: float, most: float) -> float:
    value = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise UsageError(f"people: {name}={value!r} is not a number above 0, up to {most:g}")
    return float(value)


def _day(given: object) -> DayProfile:
    if isinstance(given, str):
        return DayProfile.named(given, "people: day")
    return DayProfile.parse(" ".join(map(str, given)) if isinstance(given, list | tuple) else str(given), "people: day")
