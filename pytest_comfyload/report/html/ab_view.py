"""A/B comparisons of the store, judged again from their stored runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from pytest_comfyload.history.index import Row
from pytest_comfyload.history.record import Record
from pytest_comfyload.metrics.comparable import ClassFigure, comparable_figures, explaining
from pytest_comfyload.metrics.registry import METRICS
from pytest_comfyload.metrics.spec import Scale
from pytest_comfyload.report.html.compare_view import CompareView, Judgement, view_of
from pytest_comfyload.report.html.forest import Effect, forest, of_pairs
from pytest_comfyload.report.html.waterfall import waterfall
from pytest_comfyload.result.ab_figure import ABFigure
from pytest_comfyload.result.ab_result import ABResult

__all__ = ["comparisons"]

# Maximum number of comparisons, the newest; each reads all of its runs.
MOST_COMPARISONS = 10

_Side = list[tuple[Row, Record]]


def comparisons(rows: Iterable[Row], record_of: Callable[[Row], Record]) -> tuple[CompareView, ...]:
    """Return the comparisons that the rows belong to, the newest first; only the newest few."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.comparison is not None:
            found.setdefault(row.comparison, []).append(row)
    newest = sorted(found.items(), key=lambda each: max(row.time for row in each[1]), reverse=True)
    views = (_view(name, [(row, record_of(row)) for row in halves]) for name, halves in newest[:MOST_COMPARISONS])
    return tuple(view for view in views if view is not None)


def _view(name: str, halves: _Side) -> CompareView | None:
    """Return the view of a comparison; None if a side has no run, or the prompts of a run were not kept."""
    a, b = _side_of(halves, "A"), _side_of(halves, "B")
    if not a or not b or not all(record.outcomes for _, record in halves):
        return None
    result = _result([record for _, record in a], [record for _, record in b])
    leading = {*explaining(), *(figure.name for figure in result.told())}
    judged = Judgement(
        id=_page_id(name),
        test=result.title,
        kind=f"{result.pairs} interleaved pair{'' if result.pairs == 1 else 's'}",
        verdict=str(result.verdict),
        sentences=tuple(result.sentences()),
        notes=result.notes,
        forest=forest(_effects(result), leading),
        waterfall=waterfall([row for row, _ in a], [row for row, _ in b]),
    )
    return view_of(judged, result.labels or ("A", "B"), a, b)


def _page_id(comparison: str) -> str:
    """Return a safe page id, since a stored name may be any text."""
    return f"ab-{hashlib.sha256(comparison.encode(errors='replace')).hexdigest()[:12]}"


def _side_of(halves: _Side, side: str) -> _Side:
    found = [each for each in halves if (half := each[1].facts.half) is not None and half.side == side]
    return sorted(found, key=lambda each: each[0].time)


def _result(a: Sequence[Record], b: Sequence[Record]) -> ABResult:
    half = a[0].facts.half
    assert half is not None
    return ABResult(
        half.title,
        tuple(record.load() for record in a),
        tuple(record.load() for record in b),
        gates=a[0].facts.all_gates,
        invalid_because=next((why for each in (*a, *b) if (why := each.figures.get("invalid_because"))), None),
        labels=half.labels,
    )


def _effects(result: ABResult) -> Iterator[Effect]:
    """Yield every figure that has a ratio, and the node classes that take a notable share of the time."""
    for metric in comparable_figures().values():
        yield from _effect(result, metric.title, result.figure(metric.name), metric.scale)
    for figure in result.told():
        if ClassFigure.read(figure.name) is not None:
            yield from _effect(result, figure.name, figure, METRICS["node_time"].scale)


def _effect(result: ABResult, title: str, figure: ABFigure, scale: Scale | None) -> Iterator[Effect]:
    if figure.has_ratio:
        decides = figure.name in {result.figure(gate).name for gate in result.gates}
        effect = of_pairs(title, figure, higher_is_better=bool(scale and scale.higher_is_better), decides=decides)
        yield effect if result.withheld is None else replace(effect, verdict="inconclusive")
