"""Comparison of one test's head with the sessions before it, or of runs of the same code side by side."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_comfyload.compare.acceptance import Acceptance, accepted_at
from pytest_comfyload.compare.baseline_runs import BaselineRef, Baselines, BaselineSessions, default_point, head_of
from pytest_comfyload.compare.commit_graph import CommitGraph
from pytest_comfyload.compare.drift import (
    Track,
    change_of,
    creep_found,
    error_within,
    newest_track_of,
    step_found,
    track_of,
)
from pytest_comfyload.compare.series_comparison import MOVED, Change, CreepFound, SeriesComparison, StepFound
from pytest_comfyload.compare.sessions import LEAST_SUCCESS, Session
from pytest_comfyload.compare.surroundings import Surroundings
from pytest_comfyload.history.environment import computing_device, differences, inputs_of, moved_nodes
from pytest_comfyload.history.index import Row
from pytest_comfyload.history.record import Record
from pytest_comfyload.metrics.comparable import ComparedFigure, compared, explaining, stored_gate
from pytest_comfyload.metrics.registry import GATE
from pytest_comfyload.metrics.regression import NEWEST, RegressionVerdict, SessionHistory
from pytest_comfyload.result.ab_figure import value_at
from pytest_comfyload.result.counts import combined, differing

__all__ = ["DIMENSIONS", "Change", "RunComparer", "SeriesComparison", "Side", "across"]


class RunComparer:
    """Compares the runs of one store. `record_of` reads a run's full record, for what its row does not contain."""

    def __init__(
        self,
        rows: Iterable[Row],
        record_of: Callable[[Row], Record],
        lineage: CommitGraph,
        acceptances: Sequence[Acceptance] = (),
    ) -> None:
        self._rows: dict[tuple[str, str], list[Row]] = {}
        self._sessions: dict[str | None, list[Row]] = {}
        for row in rows:
            self._rows.setdefault(row.series, []).append(row)
            self._sessions.setdefault(row.session, []).append(row)
        self._record_of = record_of
        self._lineage = lineage
        self._acceptances = acceptances
        self._baselines = Baselines(self._rows, lineage)
        self._surroundings = Surroundings(self._rows, self._baselines, lineage, acceptances)

    def judge(
        self, head: Row, point: BaselineRef | None = None, *, gate: str | None = None, least_effect: float | None = None
    ) -> SeriesComparison:
        """Compare a head with its baseline; the other runs of the head's session are its reruns.

        `gate` is the figure that decides; by default the test's own, or the standard one if that is unknown, since a
        record may be from another source. `least_effect` is in percent, or in the figure's unit if differences count.
        Raises: UsageError, StoreError.
        """
        metric = _with_effect(compared(gate) if gate else stored_gate(head.gate), least_effect)
        together = [] if head.session is None else self._sessions.get(head.session, [])
        session = head_of(head, together)
        if point is None:
            began = min((row.time for row in together), default=session.began)
            point = default_point(session, self._lineage, began)
        baseline = self._baselines.of(session, point)
        accepted, before = accepted_at(session, baseline.history, self._acceptances, self._lineage)
        baseline = dataclasses.replace(baseline, accepted=before)
        refused = self._refusal(head, baseline)
        if refused is not None:
            return self._refused(session, baseline, metric, refused)
        return dataclasses.replace(self._compared(session, baseline, metric), accepted=accepted)

    def judge_each(
        self, head: Row, point: BaselineRef | None = None, *, gate: str | None = None, least_effect: float | None = None
    ) -> list[SeriesComparison]:
        """Compare as `judge` does, by each of the test's gates, or by `gate` alone.

        `least_effect` is in percent; figures that are compared by difference keep their own.
        """
        # A record may be from another source, with figures that are unknown here.
        own = dict.fromkeys(stored_gate(each).name for each in head.all_gates)
        figures = [compared(each) for each in ([gate] if gate else own)]
        return [
            self.judge(head, point, gate=each.name, least_effect=least_effect if each.scale.relative else None)
            for each in figures
        ]

    def missing(self, at: Sequence[Row], heads: Sequence[Row]) -> list[Row]:
        """Return, of the runs `at` an earlier commit, one for each test that no head has run."""
        there = {row.series for row in heads}
        gone = {row.series: row for row in sorted(at, key=lambda row: row.time) if row.series not in there}
        return list(gone.values())

    def _refusal(self, head: Row, baseline: BaselineSessions) -> str | None:
        if baseline.elsewhere is not None:
            theirs, ours = (self._record_of(row).environment for row in (baseline.elsewhere, head))
            return f"Not compared: another environment: {'; '.join(differences(theirs, ours))}."
        if head.state not in ("valid", "contaminated"):
            return f"Not compared: the run is {head.state}."
        if head.figures.get("success_rate", 0.0) < LEAST_SUCCESS:
            failed = 100 - head.figures.get("success_rate", 0.0)
            return (
                f"Not compared: {failed:.0f} % of the prompts failed; the times of the others are not representative."
            )
        return None

    def _refused(self, head: Session, baseline: BaselineSessions, metric: ComparedFigure, why: str) -> SeriesComparison:
        """Return the result for a head that is not compared, without explanations."""
        change = change_of(head, newest_track_of(baseline, metric))
        comparison = dataclasses.replace(change.comparison, verdict=RegressionVerdict.INCONCLUSIVE, rerun=False)
        return SeriesComparison(
            head, baseline, dataclasses.replace(change, comparison=comparison), self._where(head), refused=why
        )

    def _compared(self, head: Session, baseline: BaselineSessions, metric: ComparedFigure) -> SeriesComparison:
        track = track_of(baseline, metric)
        others = tuple(self._surroundings.noises(head, baseline.point, metric))
        history = track.history(others, error_within((*baseline.rows, *head.rows), metric))
        gate = change_of(head, track, history)
        level = track.level(gate.comparison)
        if other := _other_work(level, head):
            return self._refused(head, baseline, metric, f"Not compared: the work differs: {'; '.join(other)}.")
        step, creep = self._drift(head, baseline, gate, track, history)
        explained = (
            change_of(head, newest_track_of(baseline, compared(each))) for each in explaining() if each != metric.name
        )
        return SeriesComparison(
            head=head,
            baseline=dataclasses.replace(baseline, notes=(*self._unlike(baseline, head), *baseline.notes)),
            gate=gate,
            where=self._where(head),
            level=level,
            explained=tuple(each for each in explained if each.comparison.verdict in MOVED),
            nodes=_moved(level, head),
            subject=self._differences(level[-1], head) if level else (),
            step=step,
            creep=creep,
        )

    def _drift(
        self, head: Session, baseline: BaselineSessions, gate: Change, track: Track, history: SessionHistory
    ) -> tuple[StepFound | None, CreepFound | None]:
        """Return what changed before the head: a step or a creep."""
        found: StepFound | CreepFound | None = step_found(gate.comparison, track)
        is_open = gate.comparison.verdict in (RegressionVerdict.UNCHANGED, RegressionVerdict.INCONCLUSIVE)
        if found is None and is_open and not baseline.point.named and not track.seeded:
            noise = history.noise(gate.metric.scale)
            found = creep_found(head, gate.comparison, track, noise, self._lineage)
        if isinstance(found, StepFound):
            if self._is_rejected(found):
                return None, None
            return dataclasses.replace(found, subject=self._differences(found.before, found.session)), None
        return None, found

    def _is_rejected(self, step: StepFound) -> bool:
        before, after = step.before.newest, step.session.newest
        return any(each.covers(before, after) for each in self._acceptances if not each.accepted)

    def _differences(self, before: Session, after: Session) -> tuple[str, ...]:
        theirs, ours = (self._record_of(each.newest).subject for each in (before, after))
        return differences(theirs, ours)

    def _unlike(self, baseline: BaselineSessions, head: Session) -> Iterator[str]:
        """Yield a note on sessions with other inputs than the head's."""
        if not baseline.unlike:
            return
        theirs, ours = (self._record_of(each.newest).subject for each in (baseline.unlike[-1], head))
        what = "; ".join(differences(inputs_of(theirs), inputs_of(ours)))
        used, unlike = len(baseline.history[-NEWEST:]), len(baseline.unlike)
        if baseline.mixed and unlike == used:
            return  # the changes are reported anyway
        if baseline.mixed:
            yield f"{unlike} of {used} sessions had other inputs, and too few had the same: {what}"
        else:
            yield f"level from {used} of {used + unlike} sessions; {unlike} with other inputs left out: {what}"

    def _where(self, head: Session) -> str:
        """Return the hardware, as people call it for short."""
        environment: Mapping[str, Any] = self._record_of(head.newest).environment
        return computing_device(environment, "a CPU")


def _other_work(level: Iterable[Session], head: Session) -> tuple[str, ...]:
    """Describe the node classes that ran more often on one side: then the cause of a difference is known."""
    before = combined(row.executions for each in level for row in each.rows)
    return differing(before, combined(row.executions for row in head.rows))


def _with_effect(metric: ComparedFigure, least_effect: float | None) -> ComparedFigure:
    return metric if least_effect is None else dataclasses.replace(metric, scale=metric.scale.at_least(least_effect))


def _moved(level: Sequence[Session], head: Session) -> tuple[str, ...]:
    """Return the node classes that explain the change of the generation time."""
    before = [value for each in level if (value := each.figure(GATE)) is not None]
    after = head.figure(GATE)
    if not before or after is None:
        return ()
    rows = [row for each in level for row in each.rows]
    return moved_nodes(_nodes(rows), _nodes(head.rows), after - statistics.median(before))


def _nodes(rows: Iterable[Row]) -> dict[str, float]:
    """Return the seconds that a prompt takes in each node class: the median over runs."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.figures.items():
            if name.startswith("node_time.") and name.endswith(".p50"):
                base, prompts = name.removesuffix(".p50"), row.figures.get("generation_time.n", 0.0)
                times = row.figures.get(f"{base}.n", prompts) / prompts if prompts else 1.0
                values.setdefault(base.removeprefix("node_time."), []).append(times * value)
    return {name: statistics.median(each) for name, each in values.items()}


DIMENSIONS = ("params", "gpu", "server")


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison: the figure of a parameter set, GPU or server, and its ratio to the first side."""

    test: str
    what: str
    value: float
    unit: str
    prompts: int
    ratio: float


def across(
    rows: Sequence[Row], dimension: str, record_of: Callable[[Row], Record], metric: str | None = None
) -> list[Side]:
    """Return the sides of each test along a dimension; tests with only one side are left out.

    `rows` have one run for each test, parameters and environment.
    Raises: UsageError for a figure that cannot be compared, StoreError.
    """
    figure = compared(metric or GATE)
    sides: dict[str, dict[str, tuple[float, int]]] = {}
    for row in rows:
        for test, what, figures in _parts(row, dimension, record_of):
            value = value_at(figures, figure.name)
            if math.isfinite(value):
                sides.setdefault(test, {})[what] = (value, int(figures.get("prompts") or row.prompts))
    return [side for test, values in sides.items() if len(values) > 1 for side in _sides(test, values, figure.unit)]


def _parts(row: Row, dimension: str, record_of: Callable[[Row], Record]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the test, the value of the dimension, and the figures that were measured there."""
    name = row.series_title
    if dimension == "params":
        yield row.test, row.parameters or "no parameters", record_of(row).figures
    elif dimension == "gpu":
        record = record_of(row)
        yield name, str(record.environment.get("gpu", "unknown")), record.figures
    else:
        for server, figures in record_of(row).figures.get("by_server", {}).items():
            yield name, server, figures


def _sides(test: str, values: dict[str, tuple[float, int]], unit: str) -> Iterable[Side]:
    first = next(iter(values.values()))[0]
    for what, (value, prompts) in values.items():
        yield Side(test, what, value, unit, prompts, value / first if first else float("nan"))
