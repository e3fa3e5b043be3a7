"""The list at the top of a report: what became slower or faster, what is inconclusive, what did not run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from pytest_comfyload.compare.acceptance import Acceptance
from pytest_comfyload.compare.baseline_runs import BaselineRef
from pytest_comfyload.compare.commit_graph import CommitGraph
from pytest_comfyload.compare.comparison import Change, RunComparer, SeriesComparison
from pytest_comfyload.history.index import Row
from pytest_comfyload.history.record import Record
from pytest_comfyload.metrics.regression import RegressionVerdict
from pytest_comfyload.report.html.series import Line, Order, environment_words, page_id, short_commit
from pytest_comfyload.result.checks import format_value

__all__ = ["ORDER", "Judge", "VerdictRow", "verdict_list"]

# In order of interest to the reader.
ORDER = ("regressed", "suspected", "missing", "inconclusive", "recording", "improved", "unchanged")
# A test that has not run in this many commits is no longer reported as missing.
RECENT = 20


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """One line of the list. `change`, `lower`, `upper` and `limit` are in `unit`, nan if unknown."""

    verdict: str
    test: str
    environment: str
    sentence: str
    head: Row
    figure: str
    change: float
    lower: float
    upper: float
    limit: float
    unit: str
    medians: str
    against: str
    against_run: Row | None
    baseline: tuple[Row, ...]
    subject: tuple[str, ...]
    nodes: tuple[str, ...]
    explained: tuple[str, ...]
    notes: tuple[str, ...]
    accepted: str | None
    fails: bool

    @property
    def page(self) -> str:
        return page_id(self.head)

    @property
    def commit(self) -> str:
        return short_commit(self.head)


class Judge:
    """A judge of the runs of one store, which caches its verdicts."""

    def __init__(
        self,
        rows: Iterable[Row],
        record_of: Callable[[Row], Record],
        lineage: CommitGraph,
        acceptances: Sequence[Acceptance] = (),
    ) -> None:
        self._record_of = record_of
        self._bench = RunComparer(rows, record_of, lineage, acceptances)
        self._compared: dict[str, list[SeriesComparison]] = {}
        self._judged: dict[str, list[VerdictRow]] = {}

    def __call__(self, head: Row) -> VerdictRow:
        """Return the worst verdict of a run. Raises: StoreError."""
        return self.each(head)[0]

    def each(self, head: Row) -> list[VerdictRow]:
        """Return the verdicts of a run, one for each of its gates, the worst first. Raises: StoreError."""
        if head.file not in self._judged:
            environment = environment_words(self._record_of(head).environment)
            self._judged[head.file] = [_item(judged, head, environment) for judged in self.against(head)]
        return self._judged[head.file]

    def against(self, head: Row, point: BaselineRef | None = None) -> list[SeriesComparison]:
        """Compare a run with earlier ones, or with those up to `point`, by each of its gates, the worst first.

        Raises: StoreError.
        """
        if point is not None:
            return self._ranked(head, point)
        if head.file not in self._compared:
            self._compared[head.file] = self._ranked(head, None)
        return self._compared[head.file]

    def _ranked(self, head: Row, point: BaselineRef | None) -> list[SeriesComparison]:
        return sorted(
            self._bench.judge_each(head, point), key=lambda judged: (not judged.fails, ORDER.index(judged.verdict))
        )


def verdict_list(
    lines: Sequence[Line], rows: Sequence[Row], judge: Callable[[Row], Sequence[VerdictRow]], order: Order
) -> list[VerdictRow]:
    """Return the verdicts on the newest run of each line. `rows` are those of all lines, and not empty."""
    newest = max(rows, key=lambda row: (row.time, row.run_id))
    recent = list(dict.fromkeys(page_id(row) for row in sorted(rows, key=order)))[-RECENT:]
    at_newest = {line.newest.series for line in lines if page_id(line.newest) == page_id(newest)}
    items: list[VerdictRow] = []
    for line in lines:
        head = line.newest
        if page_id(head) == page_id(newest):
            items += judge(head)
        elif head.series not in at_newest and page_id(head) in recent:
            at_newest.add(head.series)  # the lines of its other environments are older
            items.append(_missing(judge(head)[0], newest))
    return sorted(items, key=lambda item: (ORDER.index(item.verdict), item.test))


def _missing(last: VerdictRow, newest: Row) -> VerdictRow:
    sentence = f"No run at {short_commit(newest)}, the newest commit. The last, at {last.commit}: {last.sentence}"
    return replace(last, verdict=str(RegressionVerdict.MISSING), sentence=sentence, fails=False)


def _item(judged: SeriesComparison, head: Row, environment: str) -> VerdictRow:
    gate, compared, baseline = judged.gate, judged.gate.comparison, judged.baseline
    unit = "%" if compared.relative else gate.metric.unit
    return VerdictRow(
        verdict=str(judged.verdict),
        test=head.series_title,
        environment=environment,
        sentence=judged.sentence(),
        head=head,
        figure=gate.metric.title,
        change=compared.change,
        lower=compared.lower,
        upper=compared.upper,
        limit=compared.limit,
        unit=unit,
        medians=_medians(gate),
        against=baseline.point.name,
        against_run=judged.last,
        baseline=tuple(row for session in judged.level for row in session.rows),
        subject=judged.subject,
        nodes=judged.nodes,
        explained=tuple(f"{each.metric.title} {_medians(each)}" for each in judged.explained),
        notes=baseline.notes,
        accepted=judged.accepted.reason if judged.accepted is not None else None,
        fails=judged.fails,
    )


def _medians(change: Change) -> str:
    if math.isnan(change.before) or math.isnan(change.after):
        return ""
    before, after = (format_value(value, change.metric.unit) for value in (change.before, change.after))
    return f"{before} → {after}"
