"""What a run can be shown against: the runs before it, main, the last tag, the best run, the same test elsewhere.

Every figure is judged against these, not only the gates.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from pytest_comfyload.compare.baseline_runs import BaselineRef
from pytest_comfyload.compare.drift import change_of, error_within, newest_track_of
from pytest_comfyload.compare.series_comparison import Change, SeriesComparison
from pytest_comfyload.compare.sessions import flaw_of
from pytest_comfyload.history.index import Row
from pytest_comfyload.metrics.comparable import ClassFigure, ComparedFigure, comparable_figures, stored_gate
from pytest_comfyload.metrics.registry import METRICS
from pytest_comfyload.metrics.regression import NEWEST, RegressionVerdict, SessionHistory, compare

__all__ = ["Base", "bases_of", "every_change", "main_classes"]

JudgeEach = Callable[[Row, BaselineRef | None], Sequence[SeriesComparison]]

# Number of other environments that are offered.
_MOST_ELSEWHERE = 2
# Node classes that take a smaller share of the generation time are not reported.
_LEAST_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Base:
    """Something a run can be shown against: `key` is its name in addresses, `name` the one for display.

    `row` is the run that represents it. `judged` has the comparison by each gate, the worst first; it is empty for
    another environment, across which there are no verdicts.
    """

    key: str
    name: str
    row: Row
    judged: tuple[SeriesComparison, ...] = ()

    @property
    def level(self) -> tuple[Row, ...]:
        """The runs that the head is compared with."""
        return tuple(row for each in self.judged[:1] for session in each.level for row in session.rows) or (self.row,)


def bases_of(
    head: Row, line: Sequence[Row], elsewhere: Iterable[Row], main: str | None, judge: JudgeEach
) -> Iterator[Base]:
    """Yield the bases that the stored runs offer, the runs before the head first, each run once.

    `line` are the runs of the head's test in its environment, in the order of history; `elsewhere` are those in other
    environments.
    """
    shown: set[str] = {head.run_id}
    # Lazily: a caller that needs only the first one does not wait for the others to be judged.
    for base in chain(_before(head, judge), _named(head, line, main, judge), _elsewhere(head, elsewhere)):
        if base.row.run_id not in shown:
            shown.add(base.row.run_id)
            yield base


def _before(head: Row, judge: JudgeEach) -> Iterator[Base]:
    judged = tuple(judge(head, None))
    history = judged[0].level or judged[0].baseline.history
    if history:
        yield Base("before", judged[0].baseline.point.name, history[-1].newest, judged)


def _named(head: Row, line: Sequence[Row], main: str | None, judge: JudgeEach) -> Iterator[Base]:
    earlier = [
        row for row in line if row.run_id != head.run_id and (head.session is None or row.session != head.session)
    ]
    on_main = [row for row in earlier if row.branch == main]
    tagged = [number for number, row in enumerate(earlier) if row.tag and row.commit != head.commit]
    best = _best(head, earlier)
    if on_main and head.branch != main:
        yield _judged(head, "main", main or "main", on_main, judge)
    if tagged:
        upto = [row for row in earlier[: tagged[-1] + 1] if row.branch == earlier[tagged[-1]].branch]
        yield _judged(head, "tag", f"tag {upto[-1].tag}", upto, judge)
    if best is not None:
        yield _judged(head, "best", "the best run", [best], judge)


def _judged(head: Row, key: str, name: str, rows: Sequence[Row], judge: JudgeEach) -> Base:
    newest = rows[-NEWEST:]
    point = BaselineRef(name, None, math.inf, frozenset(row.run_id for row in newest), named=True)
    return Base(key, name, newest[-1], tuple(judge(head, point)))


def _best(head: Row, rows: Iterable[Row]) -> Row | None:
    metric = stored_gate(head.gate)
    name, scale = metric.name, metric.scale
    sound = [row for row in rows if flaw_of(row) is None and scale.has_place(row.figures.get(name, math.nan))]
    return min(sound, key=lambda row: scale.place(row.figures[name]), default=None)


def _elsewhere(head: Row, rows: Iterable[Row]) -> Iterator[Base]:
    """Yield, for each of the newest other environments, the run of the head's commit, or else the newest run."""
    newest: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: (row.commit == head.commit, row.time)):
        newest[row.fingerprint] = row
    recent = sorted(newest.values(), key=lambda row: -row.time)[:_MOST_ELSEWHERE]
    for number, row in enumerate(recent, 1):
        yield Base(f"elsewhere-{number}", "another environment", row)


# --- every figure ---


def every_change(head: Row, base: Base) -> Iterator[Change]:
    """Yield each figure that both have, judged like the gates; without a verdict if the gates have none."""
    if not base.judged:
        yield from _side_by_side(head, base.row)
        return
    first = base.judged[0]
    known = {each.gate.metric.name: each.gate for each in base.judged}
    for metric in _figures(head):
        change = known.get(metric.name) or change_of(first.head, newest_track_of(first.baseline, metric))
        if not (math.isnan(change.before) or math.isnan(change.after)):
            yield change if first.refused is None else _unjudged(change)


def _side_by_side(head: Row, before: Row) -> Iterator[Change]:
    for metric in _figures(head):
        name, scale = metric.name, metric.scale
        value = before.figures.get(name, math.nan)
        if scale.has_place(value):
            history = SessionHistory((scale.place(value),), within=error_within((before, head), metric))
            comparison = compare(history, [head.figures[name]], scale)
            yield _unjudged(Change(metric, value, head.figures[name], comparison))


def _unjudged(change: Change) -> Change:
    comparison = dataclasses.replace(change.comparison, verdict=RegressionVerdict.INCONCLUSIVE)
    return dataclasses.replace(change, comparison=comparison)


def _figures(head: Row) -> Iterator[ComparedFigure]:
    """Yield the figures of a run that can be compared; of node classes, the medians of those that matter."""
    yield from (each for each in comparable_figures().values() if each.name in head.figures)
    spec = METRICS["node_time"]
    assert spec.scale is not None
    for name in main_classes(head):
        figure = ClassFigure(spec.name, name, "p50")
        yield ComparedFigure(figure.key, spec.unit, spec.scale, figure.title)


def main_classes(head: Row) -> list[str]:
    """Return the node classes that a prompt spends its time in, the longest first."""
    prefix, suffix = "node_time.", ".p50"
    whole = head.figures.get("generation_time.p50", 0.0)
    times = {
        name.removeprefix(prefix).removesuffix(suffix): value
        for name, value in head.figures.items()
        if name.startswith(prefix) and name.endswith(suffix) and value >= _LEAST_SHARE * whole
    }
    return sorted(times, key=lambda name: -times[name])
