"""Comparisons as lines of text: of commits, and of A with B."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence

from pytest_comfyload.compare.comparison import Side
from pytest_comfyload.compare.series_comparison import MOVED, Change, SeriesComparison
from pytest_comfyload.history.environment import differences, environment_of, subject_of
from pytest_comfyload.history.index import Row
from pytest_comfyload.metrics.regression import RegressionVerdict
from pytest_comfyload.metrics.units import format_interval, format_value
from pytest_comfyload.result.ab_figure import ABFigure
from pytest_comfyload.result.ab_result import ABResult

__all__ = ["ab_lines", "across_lines", "changes", "comparison_lines", "missing_lines", "worst_first"]

# Of what was changed, a person reads so many lines; the report has them all.
MOST_CHANGES = 5


def comparison_lines(comparisons: Iterable[SeriesComparison], *, brief: bool = False) -> list[str]:
    """The worst first. `brief`: tests without an earlier session are only counted."""
    ordered = worst_first(comparisons)
    recording = [
        each for each in ordered if brief and each.verdict is RegressionVerdict.RECORDING and each.refused is None
    ]
    lines = [line for each in ordered if each not in recording for line in _lines(each)]
    if recording:
        count = len({each.test for each in recording})
        tests = "1 test has" if count == 1 else f"{count} tests have"
        lines.append(f"recording: {tests} no earlier session to compare with, and no verdict yet")
        notes = dict.fromkeys(note for each in recording for note in each.baseline.notes)
        lines += [f"  note: {note}" for note in notes]
    return lines


def worst_first(comparisons: Iterable[SeriesComparison]) -> list[SeriesComparison]:
    return sorted(comparisons, key=_rank)


def missing_lines(rows: Sequence[Row], head: str) -> list[str]:
    """Tests that were run before, and not at `head`."""
    return [f"missing       {row.test}: no run at {head}" for row in rows]


def across_lines(sides: Sequence[Side]) -> list[str]:
    """Each test with its sides below it, the first being the measure of the others."""
    if not sides:
        return ["nothing to set side by side: no test has two values there"]
    width = max(len(side.what) for side in sides)
    lines: list[str] = []
    for before, side in zip([None, *sides], sides, strict=False):
        if before is None or before.test != side.test:
            lines.append(side.test)
        lines.append(
            f"  {side.what:<{width}}  {format_value(side.value, side.unit)}  ×{side.ratio:.3g}  (n={side.prompts})"
        )
    return lines


_ORDER = ("regressed", "suspected", "inconclusive", "missing", "recording", "improved", "unchanged")


def _rank(comparison: SeriesComparison) -> tuple[bool, int, str]:
    return not comparison.fails, _ORDER.index(comparison.verdict), comparison.test


def _lines(comparison: SeriesComparison) -> Iterator[str]:
    yield f"{comparison.verdict:<13} {comparison.test}: {comparison.gate.metric.title} {comparison.sentence()}"
    if comparison.level:
        yield f"  against {comparison.baseline.point.name}"
    for note in comparison.baseline.notes:
        yield f"  note: {note}"
    if comparison.refused is None and comparison.verdict in (*MOVED, "inconclusive"):
        yield from _explanation(comparison)


def _explanation(comparison: SeriesComparison) -> Iterator[str]:
    if comparison.nodes:
        yield f"  moved: {'; '.join(comparison.nodes)}"
    if comparison.explained:
        yield f"  also: {'; '.join(map(_change, comparison.explained))}"
    for change in comparison.subject[:MOST_CHANGES]:
        yield f"  changed: {change}"
    if len(comparison.subject) > MOST_CHANGES:
        yield f"  changed: {len(comparison.subject) - MOST_CHANGES} more"
    if not comparison.subject and comparison.level:
        yield "  changed: neither inputs nor versions: look at the code, the drivers and the machine"


def _change(change: Change) -> str:
    unit = change.metric.unit
    return f"{change.metric.title} {format_value(change.before, unit)} → {format_value(change.after, unit)}"


# Of what was changed, a person reads so many lines.
_MOST_CHANGES = 5


def ab_lines(ab: ABResult) -> list[str]:
    simulated = ", SIMULATED" if ab.simulated else ""
    return [f"{ab.title}: B against A{simulated}: {ab.verdict}", *(f"  {line}" for line in _body(ab))]


def _body(ab: ABResult) -> Iterator[str]:
    yield from ab.sentences()
    if ab.invalid_because is not None:
        return
    yield from _table(ab.told())
    told = changes(ab) or ((" → ".join(ab.labels),) if ab.labels else ())
    yield from (f"changed: {change}" for change in told[:_MOST_CHANGES])
    if len(told) > _MOST_CHANGES:
        yield f"changed: {len(told) - _MOST_CHANGES} more"
    yield from (f"note: {note}" for note in ab.notes)
    yield from _pictures(ab)
    if contaminated := sum(load.state == "contaminated" for load in (*ab.A, *ab.B)):
        yield f"CONTAMINATED: others used the servers during {contaminated} of {2 * ab.pairs} runs"


def changes(ab: ABResult) -> tuple[str, ...]:
    """List what differs between A and B: `KSampler.steps 20 → 25`, servers, versions, hardware."""
    if not ab.A or not ab.B:
        return ()
    a, b = ab.A[0].facts, ab.B[0].facts
    ours, theirs = ({**environment_of(facts, None), "test": None, "servers": facts.servers} for facts in (a, b))
    return differences({**subject_of(a), **ours}, {**subject_of(b), **theirs})


def _table(figures: Sequence[ABFigure]) -> Iterator[str]:
    rows = [("", "A", "B", "B ÷ A"), *map(_row, figures)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *values in rows if figures else ():
        cells = [f"{value:>{width}}" for value, width in zip(values[:-1], widths[1:-1], strict=True)]
        yield "  ".join([f"{name:<{widths[0]}}", *cells, values[-1]])


def _row(figure: ABFigure) -> tuple[str, str, str, str]:
    found = figure.paired()
    a, b = (format_value(statistics.median(side), figure.unit) for side in (figure.A, figure.B))
    return figure.name, a, b, f"×{found.value:.3g} ({format_interval(found.lower, found.upper, '')})"


def _pictures(ab: ABResult) -> Iterator[str]:
    known = [pair.identical for pair in ab.pictures if pair.identical is not None]
    if known:
        yield f"pictures: {len(known)} pairs of the same seeds, {sum(known)} of them identical"
