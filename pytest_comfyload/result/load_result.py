"""What one load run measured, its parts, and the runs before it."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple, Protocol, TypeVar

from pytest_comfyload.errors import UsageError, nearest
from pytest_comfyload.metrics.metric import Metric
from pytest_comfyload.metrics.registry import GATE
from pytest_comfyload.metrics.units import parse_duration
from pytest_comfyload.result.baseline import NO_PAST, Baseline, BaselineSource, Regressions
from pytest_comfyload.result.columns import collector_paused
from pytest_comfyload.result.figures import PARTS, figures_of
from pytest_comfyload.result.measurements import Measurements
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.run_facts import RunFacts
from pytest_comfyload.result.telemetry import GpuSample, UsageSample
from pytest_comfyload.text import harmless_line

__all__ = ["FACTS", "Groups", "LoadCapacity", "LoadResult", "SizingModel", "grouped", "value_of"]

T = TypeVar("T")

FACTS = ("workflow", "server", "worker", "group", "stage", "user", "cache_class")


class Groups(dict[Hashable, T]):
    """What was made of each group, by its value; a value that no prompt had is refused."""

    def __init__(self, key: str, members: Iterable[tuple[Hashable, T]]) -> None:
        super().__init__(members)
        self._key = key

    def __missing__(self, value: object) -> T:
        seen = nearest(_written(value), map(_written, self)) or "none"
        raise UsageError(f'by("{self._key}")[{value!r}]: no prompt had that; there are: {seen}')


def _written(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def grouped(key: str, outcomes: Sequence[Outcome]) -> list[tuple[Hashable, list[Outcome]]]:
    """Return value and prompts of each group; prompts without a value are in none.

    Numbers ascend, so that the order of users or steps is the same in each run; other values come in the order of
    their first prompts. Raises: UsageError for a key that no prompt knows.
    """
    if key not in FACTS:
        _expect_input(key, outcomes)
    groups: dict[Hashable, list[Outcome]] = {}
    for outcome in outcomes:
        value = value_of(key, outcome)
        if value is not None:
            groups.setdefault(value, []).append(outcome)
    if all(isinstance(value, int | float) for value in groups):
        return sorted(groups.items(), key=itemgetter(0))
    return list(groups.items())


def value_of(key: str, outcome: Outcome) -> Hashable:
    """Return what a prompt has under a key; links and objects as their JSON; None: nothing."""
    if key in FACTS:
        fact: Hashable = getattr(outcome, key)
        return fact
    value = outcome.inputs.get(key)
    return value if isinstance(value, Hashable) else json.dumps(value)


def _expect_input(key: str, outcomes: Sequence[Outcome]) -> None:
    legal = [*FACTS, *dict.fromkeys(address for outcome in outcomes for address in outcome.inputs)]
    if key not in legal:
        near = nearest(str(key), legal, limit=len(legal))
        raise UsageError(f"by({key!r}): legal: {near}; inputs by the address that the scenario uses")


class LoadCapacity(NamedTuple):
    """The largest loads under which an SLO holds, by the queue model, each with the 90 % interval of its sample.

    `prompts_per_minute` arrive at random (Poisson); `people` send their next prompt a think time after the last one's
    outputs.
    """

    prompts_per_minute: Metric
    people: Metric


class SizingModel(Protocol):
    """Says what servers bear by a load's service times; `among`: all outcomes of the run that the load is a part of."""

    def __call__(
        self, load: LoadResult, among: Sequence[Outcome], slo: str, think_time: float | str
    ) -> LoadCapacity: ...


class LoadResult(Measurements):
    """The `load` of a test: its metrics, its parts, and how it compares with the runs before it.

    A part of a run is one too.
    """

    def __init__(
        self, facts: RunFacts, outcomes: Iterable[Outcome], carried: Iterable[Outcome] = (), label: str = ""
    ) -> None:
        super().__init__(facts, outcomes, carried, label)
        # Set by what has the store of runs.
        self.past: BaselineSource = NO_PAST
        # Set by what has the queue model.
        self.sized_by: SizingModel | None = None
        self._among: Sequence[Outcome] = self.all_outcomes

    # --- the runs before it ---

    @property
    def baseline(self) -> Baseline:
        """Their figures, as medians: `load.baseline.generation_time.p50`. Without such runs a comparison holds."""
        return self.past.baseline()

    def regressions(self, of: str | Sequence[str] | None = None, min_effect: float | None = None) -> Regressions:
        """Return what got worse than in the runs before, a sentence each; empty if nothing did.

        Where the first run leaves it open, the load runs again. Raises: UsageError.

        Args:
            of: The figure that decides, such as "total_time.p95", or several, each of which does (default: the
                scenario's `gate`).
            min_effect: The least change that counts, in percent; of a figure that can be 0, in the figure's unit.
        """
        return self.past.regressions(self.facts.all_gates if of is None else _names(of), min_effect)

    # --- what its servers bear ---

    def capacity(self, slo: str, think_time: float | str = "45s") -> LoadCapacity:
        """Return how many prompts per minute, and how many people, these servers bear under an SLO.

        No further load runs: the service times of this one, with its failures, are redrawn in a model of the queue.
        `find_capacity` confirms its answer by a run.

        Args:
            slo: Such as "total_time.p95 < 60", seconds.
            think_time: The people's pause between the outputs of a prompt and their next one.

        Raises:
            UsageError: An SLO that cannot be read, or does not depend on the load; a result that no test has made.
        """
        if self.sized_by is None:
            raise UsageError("capacity() is for the results of loads that a test has run")
        return self.sized_by(self, self._among, slo, think_time)

    # --- parts of the run ---

    def by(self, key: str) -> Groups[LoadResult]:
        """The run in parts: `load.by("KSampler.steps")[20]`.

        `key`: "workflow", "server", "worker", "group", "stage", "user", "cache_class", or an input as the scenario
        addresses it.
        Raises: UsageError.
        """
        return Groups(
            key, ((value, self._group(key, value, members)) for value, members in grouped(key, self.outcomes))
        )

    def between(self, t0: float | str, t1: float | str) -> LoadResult:
        """The part from `t0` to `t1`, seconds (or "5m") from the window's start. Raises: UsageError."""
        start, end = self.facts.window
        low, high = start + parse_duration(t0, "t0"), min(end, start + parse_duration(t1, "t1"))
        if low >= high:
            raise UsageError(f"between({t0!r}, {t1!r}): give two times within the window of {self.window:.0f} s")
        members = [outcome for outcome in self.outcomes if low <= outcome.intended < high]
        carried = [outcome for outcome in self.outcomes if outcome.intended < low]
        usage = [sample for sample in self.facts.server_usage if low <= sample.time < high]
        return self._part(f"{t0} to {t1}", (low, high), members, carried, usage, self.facts.gpu_usage)

    def _group(self, key: str, value: object, members: Sequence[Outcome]) -> LoadResult:
        carried = [outcome for outcome in self._carried if value_of(key, outcome) == value]
        usage: Sequence[UsageSample] = self.facts.server_usage
        # A GPU does not say whose prompt it works on.
        gpus: Sequence[GpuSample] | None = self.facts.gpu_usage if key in ("server", "worker") else None
        # Of a balancer there are no samples, only of the workers behind it.
        if key == "worker" or (key == "server" and not self.facts.workers):
            usage = [sample for sample in usage if sample.server == value]
            gpus = None if gpus is None else [sample for sample in gpus if sample.server == value]
        return self._part(f"{key}={value}", self.facts.window, members, carried, usage, gpus)

    def _part(
        self,
        label: str,
        window: tuple[float, float],
        members: Sequence[Outcome],
        carried: Sequence[Outcome],
        usage: Sequence[UsageSample],
        gpus: Sequence[GpuSample] | None,
    ) -> LoadResult:
        facts = replace(
            self.facts,
            title=f"{self.facts.title} [{label}]",
            window=window,
            intended=len(members),
            submitted=len(members),
            server_usage=tuple(usage),
            gpu_usage=tuple(gpus or ()),
            gpu_sources=() if gpus is None else self.facts.gpu_sources,
            silent_ooms=None,  # a log line belongs to no prompt
        )
        warmups = [outcome for outcome in self.all_outcomes if outcome.warmup]
        part = LoadResult(facts, [*warmups, *members], carried, f"{self._label}[{label}] ")
        part.sized_by = self.sized_by
        part._among = self._among
        return part

    def to_dict(self) -> dict[str, Any]:
        """The figures as built-ins, for JSON; what has no samples is left out."""
        several = [key for key in PARTS if len(set(map(attrgetter(key), self.outcomes)) - {None}) > 1]
        with collector_paused():
            figures = figures_of(self, {key: self.by(key) for key in several})
        self._forget()
        return figures

    def __repr__(self) -> str:
        return harmless_line(f"<LoadResult {self.facts.title}: {len(self.outcomes)} prompts, {self.state}>")


def _names(of: object) -> tuple[str, ...]:
    names = of if isinstance(of, list | tuple) else [of]
    if not names or not all(isinstance(each, str) for each in names):
        raise UsageError(f"of={of!r}: give the name of a figure, such as {GATE!r}, or a list of names")
    return tuple(dict.fromkeys(names))
