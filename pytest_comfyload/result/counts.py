"""Failures by kind, node times by class, goodput, and whether the server was saturated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NoReturn

from pytest_comfyload.errors import UsageError, nearest
from pytest_comfyload.metrics.distribution import Distribution
from pytest_comfyload.metrics.metric import Count, Metric
from pytest_comfyload.metrics.units import parse_duration
from pytest_comfyload.result.columns import Timed
from pytest_comfyload.result.outcome import PHASES, Outcome, OutcomeStatus
from pytest_comfyload.result.run_facts import RunFacts

__all__ = ["ByClass", "ErrorCounts", "Goodput", "in_time", "is_saturated", "parse_bounds"]


class ErrorCounts(dict[str, Count]):
    """By kind of failure, all of them, zeros too; another word is refused with the legal ones."""

    KEYS: ClassVar = tuple(str(kind) for kind in OutcomeStatus if kind is not OutcomeStatus.SUCCESS)

    def __init__(self, name: str, by_status: Mapping[OutcomeStatus, int], n: int) -> None:
        super().__init__(
            (kind, Count(by_status.get(OutcomeStatus(kind), 0), f"{name}[{kind}]", n)) for kind in self.KEYS
        )

    def __missing__(self, kind: str) -> Count:
        raise UsageError(f"no such kind of error: {kind!r}; legal: {nearest(str(kind), self, limit=len(self))}")


class ByClass(dict[str, Distribution]):
    """A distribution for each node class that ran; another is refused with these."""

    def __init__(self, name: str, unit: str, measured: Mapping[str, Timed]) -> None:
        super().__init__(
            (class_type, Distribution.over_time(f"{name}[{class_type}]", *timed, unit=unit))
            for class_type, timed in measured.items()
        )
        self._name = name
        self._did = "ran" if unit == "s" else "reported progress"

    def __missing__(self, class_type: str) -> Distribution:
        seen = nearest(str(class_type), sorted(self)) or "none"
        raise UsageError(
            f"{self._name}[{class_type!r}]: no node of that class {self._did}; classes that {self._did}: {seen}"
        )


_TIMES = ("total_time", *PHASES)


@dataclass(frozen=True, slots=True, eq=False)
class Goodput:
    """`share`: percent of the submitted prompts. `rate`: prompts per minute that ended in the window.

    Some tools mean the one by goodput, some the other: it is no number by itself.
    """

    share: Metric
    rate: Metric

    def _refuse(self, other: object) -> NoReturn:
        raise UsageError("a goodput is no number: compare its .share (percent) or its .rate (prompts per minute)")

    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = _refuse
    __hash__ = object.__hash__


def parse_bounds(bounds: Mapping[str, object]) -> dict[str, float]:
    """Seconds by time. Raises: UsageError, with the legal names."""
    if not bounds:
        raise UsageError("goodput(): give it a bound, such as goodput(total_time=30)")
    for name in bounds:
        if name not in _TIMES:
            raise UsageError(f"goodput({name}=…): there is no such time; legal: {nearest(name, _TIMES)}")
    parsed = {name: parse_duration(value, f"goodput: {name}") for name, value in bounds.items()}
    for name, bound in parsed.items():
        if bound <= 0:
            raise UsageError(f"goodput({name}={bounds[name]!r}): a bound is a time above 0, such as 30 or '30s'")
    return parsed


def in_time(outcome: Outcome, bounds: Mapping[str, float]) -> bool:
    """Return whether the prompt succeeded within all bounds, which are in time themselves."""
    times = ((getattr(outcome, name), bound) for name, bound in bounds.items())
    return outcome.succeeded and all(time is not None and time <= bound for time, bound in times)


# Of the window; the rest is what a server needs between two prompts, and the way to the first one.
BUSY = 0.95


def is_saturated(facts: RunFacts, generation_times: Iterable[float | None]) -> bool:
    start, end = facts.window
    generating = math.fsum(time or 0.0 for time in generation_times)
    return generating >= BUSY * (end - start) * (len(facts.workers) or len(facts.servers))
