"""Failures by kind, node times by class, goodput, saturation, and how often nodes ran instead of being cached.

Two runs are comparable only if they did the same work: a text encoder that runs in every prompt of one run and is
always cached in the other makes the second faster, regardless of the commits between them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NoReturn, TypeAlias

from pytest_comfyload.errors import UsageError, nearest
from pytest_comfyload.metrics.distribution import Distribution
from pytest_comfyload.metrics.metric import Count, Metric
from pytest_comfyload.metrics.units import parse_duration
from pytest_comfyload.result.columns import Timed, Work
from pytest_comfyload.result.outcome import PHASES, Outcome, OutcomeStatus
from pytest_comfyload.result.run_facts import RunFacts

__all__ = [
    "ByClass",
    "ErrorCounts",
    "Executions",
    "Goodput",
    "combined",
    "differing",
    "executed",
    "in_time",
    "is_saturated",
    "parse_bounds",
]


class ErrorCounts(dict[str, Count]):
    """Failures by kind, zeros included; an unknown kind raises UsageError with the legal ones."""

    KEYS: ClassVar = tuple(str(kind) for kind in OutcomeStatus if kind is not OutcomeStatus.SUCCESS)

    def __init__(self, name: str, by_status: Mapping[OutcomeStatus, int], n: int) -> None:
        super().__init__(
            (kind, Count(by_status.get(OutcomeStatus(kind), 0), f"{name}[{kind}]", n)) for kind in self.KEYS
        )

    def __missing__(self, kind: str) -> Count:
        raise UsageError(f"unknown kind of error {kind!r}; legal: {nearest(str(kind), self, limit=len(self))}")


class ByClass(dict[str, Distribution]):
    """A distribution for each node class that ran; any other class raises UsageError with those that ran."""

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
    """The prompts that succeeded within given bounds: `share` in percent of the measured prompts, `rate` per minute.

    The rate counts prompts that ended in the window. Tools disagree on which of the two goodput means, so a goodput is
    not itself a number.
    """

    share: Metric
    rate: Metric

    def _refuse(self, other: object) -> NoReturn:
        raise UsageError("a goodput is not a number: compare its .share (percent) or its .rate (prompts per minute)")

    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = _refuse
    __hash__ = object.__hash__


def parse_bounds(bounds: Mapping[str, object]) -> dict[str, float]:
    """Return the bounds in seconds, by the name of the time. Raises: UsageError, with the legal names."""
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
    """Return whether the prompt succeeded within all bounds, which are inclusive."""
    times = ((getattr(outcome, name), bound) for name, bound in bounds.items())
    return outcome.succeeded and all(time is not None and time <= bound for time, bound in times)


# Share of the window; the rest is what a server needs between two prompts, and the wait for the first one.
BUSY = 0.95


def is_saturated(facts: RunFacts, generation_times: Iterable[float | None]) -> bool:
    start, end = facts.window
    generating = math.fsum(time or 0.0 for time in generation_times)
    return generating >= BUSY * (end - start) * (len(facts.workers) or len(facts.servers))


# By workflow and node class: the number of prompts in which 0, 1, 2, … nodes of that class were executed, up to the
# number of such nodes in the workflow.
Executions: TypeAlias = Mapping[str, Mapping[str, Sequence[int]]]
_Classes: TypeAlias = Mapping[str, Sequence[int]]

# Smaller differences, as a share of a class's nodes, do not change a median.
LEAST = 0.05
# In standard errors: prompts draw models and sizes at random, so cache hits vary from run to run.
SURE = 3.0


def executed(done: Mapping[Work, int], nodes: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, list[int]]]:
    """Count executions of successful prompts whose nodes are known.

    Args:
        done: The number of prompts that caused each kind of work.
        nodes: By workflow, how many nodes of each class it executes.
    """
    work = {workflow: {name: [0] * (count + 1) for name, count in of.items()} for workflow, of in nodes.items()}
    for each, count in done.items():
        if each.nodes:
            ran = Counter(dict(each.nodes).values())
            for name, prompts in work.get(each.workflow, {}).items():
                prompts[min(ran[name], len(prompts) - 1)] += count
    return {workflow: of for workflow, of in work.items() if any(map(sum, of.values()))}


def combined(works: Iterable[Executions]) -> dict[str, dict[str, list[int]]]:
    """Combine the counts of several runs.

    If the number of nodes of a class changed, only the runs since the last change count.
    """
    total: dict[str, dict[str, list[int]]] = {}
    for work in works:
        for workflow, classes in work.items():
            of = total.setdefault(workflow, {})
            for name, prompts in classes.items():
                earlier = of.get(name, ())
                same = len(earlier) == len(prompts)
                of[name] = [a + b for a, b in zip(earlier, prompts, strict=True)] if same else list(prompts)
    return total


def differing(before: Executions, after: Executions, names: tuple[str, str] = ("before", "now")) -> tuple[str, ...]:
    """Describe the classes that ran more often in one than in the other: `KSampler ran 2× per prompt before, 1× now`.

    Only what both have in common is compared: workflows of the same name, or else the only one of each, and in them the
    classes with equally many nodes, since adding or removing nodes is deliberate. Empty if nothing differs.
    """
    found: dict[str, None] = {}
    for ours, theirs in _workflows(before, after):
        for name, a in ours.items():
            b = theirs.get(name, ())
            if len(a) == len(b) and _differ(a, b):
                found[f"{name} ran {_often(_mean(a), _mean(b), names)}"] = None
    return tuple(found)


def _workflows(before: Executions, after: Executions) -> Iterator[tuple[_Classes, _Classes]]:
    if len(before) == len(after) == 1:
        yield next(iter(before.values())), next(iter(after.values()))
        return
    for workflow in before:
        if workflow in after:
            yield before[workflow], after[workflow]


def _differ(a: Sequence[int], b: Sequence[int]) -> bool:
    nodes = len(a) - 1
    if nodes < 1 or min(*a, *b) < 0 or not sum(a) or not sum(b):  # a record may be from another source
        return False
    seen = [count for count, prompts in enumerate(zip(a, b, strict=True)) if any(prompts)]
    errors = (_error(prompts, seen[0], seen[-1]) for prompts in (a, b))
    return abs(_mean(a) - _mean(b)) > max(LEAST * nodes, SURE * math.hypot(*errors))


def _mean(prompts: Sequence[int]) -> float:
    return sum(count * times for count, times in enumerate(prompts)) / sum(prompts)


def _error(prompts: Sequence[int], fewest: int, most: int) -> float:
    """Return the standard error of the mean, with two prompts added, at the fewest and the most executions seen.

    `fewest` and `most` are over both runs. Without them, a few identical prompts would suggest that all prompts are
    identical.
    """
    padded = [times + (count == fewest) + (count == most) for count, times in enumerate(prompts)]
    mean, n = _mean(padded), sum(padded)
    variance = sum(times * (count - mean) ** 2 for count, times in enumerate(padded)) / n
    return math.sqrt(variance / n)


def _often(a: float, b: float, names: tuple[str, str]) -> str:
    """Describe how often a class ran: in percent of the prompts, or per prompt if that is more than once."""
    if max(a, b) <= 1:
        return f"in {100 * a:.0f} % of prompts {names[0]}, {100 * b:.0f} % {names[1]}"
    return f"{a:.3g}× per prompt {names[0]}, {b:.3g}× {names[1]}"
