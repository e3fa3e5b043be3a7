"""Arrivals of prompts over several days: drawn for people, or recorded. Times are seconds since the first midnight."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pytest_comfyload.capacity.columns import Column, below, column, divided, joined, order_of, select, take
from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.arrival_trace import ArrivalTrace

__all__ = ["DAY", "HOUR", "Arrived"]

DAY, HOUR = 86_400.0, 3_600.0


@dataclass(frozen=True, slots=True, eq=False)
class Arrived:
    """Prompts in order of arrival: the time, person, workflow and service time quantile of each.

    `days` is the number of days, of `day` seconds each; `busiest` is the hour of the day with the most prompts.
    """

    days: int
    busiest: int
    at: Column
    people: Column
    kinds: Column
    quantiles: Column
    day: float = DAY

    @classmethod
    def of_trace(cls, trace: ArrivalTrace, window: str, weights: Sequence[float], seed: int) -> Arrived:
        """Return recorded arrivals, each from a different person. Raises: UsageError if the window has a gap."""
        rng, whole = random.Random(seed), trace.select(window)
        start = whole.start
        midnight = start.replace(hour=0, minute=0, second=0, microsecond=0)
        offset = (start - midnight).total_seconds()
        at = [offset + time for time in whole.times]
        if not at:
            raise UsageError(f"{trace.name} has no arrivals to plan for")
        hours = Counter(int(time // HOUR) % 24 for time in at)
        kinds = rng.choices(range(len(weights)), weights, k=len(at))
        return cls(
            days=math.ceil((offset + whole.duration) / DAY),
            busiest=max(hours, key=hours.__getitem__),
            at=column(at),
            people=column(range(len(at))),
            kinds=column(kinds),
            quantiles=column([rng.random() for _ in at]),
        )

    @classmethod
    def none(cls, days: int, busiest: int) -> Arrived:
        return cls(days, busiest, column([]), column([]), column([]), column([]))

    def with_more(self, *parts: Arrived) -> Arrived:
        """Return these prompts merged with those of all parts; of simultaneous ones, these come first."""
        every = (self, *parts)
        at = joined([each.at for each in every])
        order = order_of(at)
        return replace(
            self,
            at=take(at, order),
            people=take(joined([each.people for each in every]), order),
            kinds=take(joined([each.kinds for each in every]), order),
            quantiles=take(joined([each.quantiles for each in every]), order),
        )

    def selected(self, keep: Column) -> Arrived:
        """Return the prompts for which `keep` is true."""
        columns = (select(each, keep) for each in (self.at, self.people, self.kinds, self.quantiles))
        at, people, kinds, quantiles = columns
        return replace(self, at=at, people=people, kinds=kinds, quantiles=quantiles)

    def sped(self, factor: float) -> Arrived:
        """Return the same prompts on days that pass `factor` times as fast."""
        return replace(self, at=divided(self.at, factor), day=self.day / factor)

    @property
    def hour(self) -> float:
        return self.day / 24

    def __len__(self) -> int:
        return len(self.at)

    def of_first(self, people: int) -> Arrived:
        """Return the prompts of the first `people` people."""
        return self.selected(below(self.people, people))
