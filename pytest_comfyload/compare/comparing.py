"""One test at one commit, held against the runs before it: a verdict on one figure, and what explains it."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_comfyload.compare.acceptance import Acceptance
from pytest_comfyload.compare.baseline import LEAST_SUCCESS, Baseline, Point, baseline_of, default_point, runs_of
from pytest_comfyload.compare.differences import differences, moved_nodes
from pytest_comfyload.compare.lineage import Lineage
from pytest_comfyload.compare.metrics import EXPLAINING, GATE, Compared, compared, is_compared
from pytest_comfyload.history.index import Row
from pytest_comfyload.history.record import Record
from pytest_comfyload.result.regression import Comparison, Verdict, compare

__all__ = ["Bench", "Change", "SeriesComparison"]


@dataclass(frozen=True, slots=True)
class Change:
    """Of one figure. `before`: the median of the earlier runs; `after`: the mean of the new ones."""

    metric: Compared
    before: float
    after: float
    comparison: Comparison


@dataclass(frozen=True, slots=True)
class SeriesComparison:
    """`gate` decides. `explained` are other figures that moved, `nodes` the classes that did, `subject` what was
    changed. `at_tag`: the same figure against the last tag, since a baseline that moves along does not see creep.
    """

    head: tuple[Row, ...]
    baseline: Baseline
    gate: Change
    where: str
    explained: tuple[Change, ...] = ()
    nodes: tuple[str, ...] = ()
    subject: tuple[str, ...] = ()
    refused: str | None = None
    accepted: Acceptance | None = None
    at_tag: SeriesComparison | None = None

    @property
    def test(self) -> str:
        row = self.head[-1]
        return f"{row.test} [{row.parameters}]" if row.parameters else row.test

    @property
    def verdict(self) -> Verdict:
        return self.gate.comparison.verdict

    @property
    def fails(self) -> bool:
        if self.accepted is not None:
            return False
        return self.gate.comparison.fails or (self.at_tag is not None and self.at_tag.gate.comparison.fails)

    def sentence(self) -> str:
        if self.refused is not None:
            return self.refused
        text = self.gate.comparison.sentence(self.where, self.gate.metric.unit)
        return f"{text} Accepted: {self.accepted.reason}" if self.accepted is not None else text


class Bench:
    """Compares the runs of one store. `record_of` reads a run whole, for what its row does not tell."""

    def __init__(
        self,
        rows: Sequence[Row],
        record_of: Callable[[Row], Record],
        lineage: Lineage,
        acceptances: Sequence[Acceptance] = (),
    ) -> None:
        self._rows = rows
        self._record_of = record_of
        self._lineage = lineage
        self._acceptances = acceptances

    def judge(
        self,
        head: Row,
        point: Point | None = None,
        *,
        gate: str | None = None,
        least_effect: float | None = None,
        reruns: Sequence[Row] = (),
    ) -> SeriesComparison:
        """`gate`: the figure that decides; by default the test's own, or the usual one where nobody knows that, since a
        record may come from elsewhere. `least_effect`: percent, or the figure's unit where differences count.
        `reruns`: further runs of this code, which the store has not yet. Raises: UsageError, StoreError.
        """
        metric = _with_effect(compared(gate or (head.gate if is_compared(head.gate) else GATE)), least_effect)
        runs = (*runs_of(head, self._rows), *reruns)
        verdict = self._against(head, runs, point or default_point(head, self._lineage), metric)
        tag = self._lineage.newest_tag(head.commit) if head.commit and point is None else None
        if tag is None:
            return verdict
        name, commit = tag
        at_tag = self._against(head, runs, Point(f"tag {name}", commit, head.time), metric)
        return dataclasses.replace(verdict, at_tag=at_tag if at_tag.baseline.rows else None)

    def missing(self, at: Sequence[Row], heads: Sequence[Row]) -> list[Row]:
        """Of the runs `at` an earlier commit, those of tests that no head has run; one of each test."""
        there = {row.series for row in heads}
        gone = {row.series: row for row in sorted(at, key=lambda row: row.time) if row.series not in there}
        return list(gone.values())

    def _against(self, head: Row, runs: tuple[Row, ...], point: Point, metric: Compared) -> SeriesComparison:
        baseline = baseline_of(head, self._rows, point, self._lineage, self._before_acceptances(head))
        gate = _change(metric, baseline.rows, runs)
        refused = self._refusal(head, baseline)
        if refused is not None:
            gate = dataclasses.replace(gate, comparison=_set_aside(gate.comparison))
        newest = baseline.rows[-1] if baseline.rows else None
        explained = (_change(compared(name), baseline.rows, runs) for name in EXPLAINING if name != metric.name)
        return SeriesComparison(
            head=runs,
            baseline=baseline,
            gate=gate,
            where=_where(self._record_of(head).environment),
            explained=tuple(each for each in explained if each.comparison.verdict in _MOVED),
            nodes=moved_nodes(_nodes(baseline.rows), _nodes(runs)) if newest else (),
            subject=differences(self._record_of(newest).subject, self._record_of(head).subject) if newest else (),
            refused=refused,
            accepted=next((each for each in self._acceptances if each.concerns(head.commit, head.test)), None),
        )

    def _before_acceptances(self, head: Row) -> frozenset[str] | None:
        """Commits before a change that was accepted: their runs are of another level. That at the head is new."""
        accepted = [each for each in self._acceptances if each.accepted and each.test in (None, head.test)]
        commits = {row.commit for row in self._rows if row.commit and row.commit != head.commit}
        gone: set[str] = set()
        for commit in commits:
            if any(each.concerns(commit, head.test) for each in accepted):
                gone |= (self._lineage.up_to(commit) or frozenset()) - {commit}
        return frozenset(gone) if gone else None

    def _refusal(self, head: Row, baseline: Baseline) -> str | None:
        if baseline.elsewhere is not None:
            theirs, ours = (self._record_of(row).environment for row in (baseline.elsewhere, head))
            return f"Not compared: another environment: {'; '.join(differences(theirs, ours))}."
        if head.figures.get("success_rate", 0.0) < LEAST_SUCCESS:
            failed = 100 - head.figures.get("success_rate", 0.0)
            return f"Not compared: {failed:.0f} % of the prompts failed, and the times of the others say too little."
        if head.state not in ("valid", "contaminated"):
            return f"Not compared: the run is {head.state}."
        return None


_MOVED = (Verdict.REGRESSED, Verdict.IMPROVED)


def _change(metric: Compared, earlier: Iterable[Row], runs: Iterable[Row]) -> Change:
    before = [value for row in earlier if (value := row.figures.get(metric.name)) is not None]
    after = [value for row in runs if (value := row.figures.get(metric.name)) is not None]
    return Change(
        metric,
        statistics.median(before) if before else float("nan"),
        statistics.fmean(after) if after else float("nan"),
        compare(before, after, metric.scale),
    )


def _set_aside(comparison: Comparison) -> Comparison:
    return dataclasses.replace(comparison, verdict=Verdict.INCONCLUSIVE, rerun=False)


def _with_effect(metric: Compared, least_effect: float | None) -> Compared:
    return metric if least_effect is None else dataclasses.replace(metric, scale=metric.scale.at_least(least_effect))


def _nodes(rows: Iterable[Row]) -> dict[str, float]:
    """The median over runs of the median time of each node class."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.figures.items():
            if name.startswith("node_time.") and name.endswith(".p50"):
                values.setdefault(name[len("node_time.") : -len(".p50")], []).append(value)
    return {name: statistics.median(each) for name, each in values.items()}


def _where(environment: Mapping[str, Any]) -> str:
    """The hardware, as short as people say it."""
    name = str(environment.get("gpu", ""))
    if name == "none":
        name = str(environment.get("processor") or "a CPU")
    return name.removeprefix("NVIDIA ").removeprefix("GeForce ")
