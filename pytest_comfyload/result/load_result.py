"""The result of a load run: its metrics, its parts, and its comparison with earlier runs."""

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
    """An item for each group of prompts, by the group's value; a value that no prompt had raises UsageError."""

    def __init__(self, key: str, members: Iterable[tuple[Hashable, T]]) -> None:
        super().__init__(members)
        self._key = key

    def __missing__(self, value: object) -> T:
        seen = nearest(_written(value), map(_written, self)) or "none"
        raise UsageError(f'by("{self._key}")[{value!r}]: no prompt had that; there are: {seen}')


def _written(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def grouped(key: str, outcomes: Sequence[Outcome]) -> list[tuple[Hashable, list[Outcome]]]:
    """Return the value and the prompts of each group; prompts without a value are in no group.

    Numbers ascend, so that users or steps are in the same order in every run; other values are in the order of their
    first prompts. Raises: UsageError for an unknown key.
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
    """Return a prompt's value for a key, lists and objects as JSON; None if it has none."""
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
    """The largest loads that meet an SLO, by the queue model, each with a 90 % interval.

    The interval reflects the size of the sample of service times. `prompts_per_minute` is for prompts that arrive at
    random (Poisson). `people` is the number of users who each send the next prompt a think time after the outputs of
    the last one.
    """

    prompts_per_minute: Metric
    people: Metric


class SizingModel(Protocol):
    """Computes, from a load's service times, the largest load of its servers under an SLO.

    `among` are all outcomes of the run that the load is a part of.
    """

    def __call__(
        self, load: LoadResult, among: Sequence[Outcome], slo: str, think_time: float | str
    ) -> LoadCapacity: ...


class LoadResult(Measurements):
    """The `load` of a test: its metrics, its parts, and its comparison with earlier runs.

    A part of a run is a LoadResult, too.
    """

    def __init__(
        self, facts: RunFacts, outcomes: Iterable[Outcome], carried: Iterable[Outcome] = (), label: str = ""
    ) -> None:
        super().__init__(facts, outcomes, carried, label)
        # Set by the code that has access to the stored runs.
        self.past: BaselineSource = NO_PAST
        # Set by the code that has the queue model.
        self.sized_by: SizingModel | None = None
        self._among: Sequence[Outcome] = self.all_outcomes

    # --- earlier runs ---

    @property
    def baseline(self) -> Baseline:
        """Medians of the figures of earlier runs, such as `load.baseline.generation_time.p50`.

        If there are no earlier runs, every comparison with the baseline passes.
        """
        return self.past.baseline()

    def regressions(self, of: str | Sequence[str] | None = None, min_effect: float | None = None) -> Regressions:
        """Return the figures that got worse than in earlier runs, one sentence each; empty if none did.

        If the result is not yet clear, the load runs again, several times if necessary.

        Args:
            of: The figure that decides, such as "total_time.p95", or a list of figures, each of which decides (default:
                the scenario's gates).
            min_effect: The smallest change that counts, in percent; for a figure that can be 0, in the figure's unit.

        Raises:
            UsageError: A figure that cannot be compared, or a `min_effect` that is not positive.
        """
        return self.past.regressions(self.facts.all_gates if of is None else _names(of), min_effect)

    # --- capacity of its servers ---

    def capacity(self, slo: str, think_time: float | str = "45s") -> LoadCapacity:
        """Return how many prompts per minute, and how many people, these servers can handle under an SLO.

        No further load runs: the service times of this one, including its failures, are resampled in a model of the
        queue. `find_capacity` confirms its answer by a run.

        Args:
            slo: A text such as "total_time.p95 < 60", in seconds.
            think_time: The people's pause between the outputs of a prompt and their next one: seconds, or a text such
                as "45s".

        Raises:
            UsageError: An SLO that cannot be parsed or does not depend on the load, or a result that does not come from
                a load that a test has run.
        """
        if self.sized_by is None:
            raise UsageError("capacity() is for the results of loads that a test has run")
        return self.sized_by(self, self._among, slo, think_time)

    # --- parts of the run ---

    def by(self, key: str) -> Groups[LoadResult]:
        """Return the parts of the run by the value of `key`, as in `load.by("KSampler.steps")[20]`.

        Args:
            key: "workflow", "server", "worker", "group", "stage", "user", "cache_class", or an input, addressed as in
                the scenario.

        Raises:
            UsageError: A key that is none of these; indexing the result raises it for a value that no prompt had.
        """
        return Groups(
            key, ((value, self._group(key, value, members)) for value, members in grouped(key, self.outcomes))
        )

    def between(self, t0: float | str, t1: float | str) -> LoadResult:
        """Return the part of the run with the prompts that were due from `t0` up to, but not including, `t1`.

        Both are in seconds, or texts such as "5m", from the start of the measured window.
        Raises: UsageError for a time that cannot be parsed, or if no part of the window lies between them.
        """
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
        # GPU samples cannot be attributed to prompts.
        gpus: Sequence[GpuSample] | None = self.facts.gpu_usage if key in ("server", "worker") else None
        # There are no samples of a balancer, only of the workers behind it.
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
        """Return the figures as built-in types, for JSON; metrics without samples are left out."""
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
