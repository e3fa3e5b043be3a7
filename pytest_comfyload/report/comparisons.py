"""Comparisons of commits, and of A with B, as lines of text."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.text import Text

from pytest_comfyload.compare.comparison import Side
from pytest_comfyload.compare.series_comparison import MOVED, Change, SeriesComparison
from pytest_comfyload.history.environment import differences, environment_of, subject_of
from pytest_comfyload.history.index import Row
from pytest_comfyload.metrics.regression import RegressionVerdict
from pytest_comfyload.metrics.units import counted, format_interval, format_value
from pytest_comfyload.report.live import test_name
from pytest_comfyload.report.table import Column, table_lines
from pytest_comfyload.result.ab_figure import ABFigure
from pytest_comfyload.result.ab_result import ABResult
from pytest_comfyload.text import harmless

__all__ = [
    "ab_lines",
    "across_lines",
    "changes",
    "coloured",
    "comparison_data",
    "comparison_lines",
    "missing_lines",
    "verdict_style",
    "worst_first",
]

# Maximum number of changes listed here; the HTML report lists all of them.
_MOST_CHANGES = 5
# Width of tables that are passed on as text: every terminal has this many columns.
_WIDTH = 80


def comparison_lines(comparisons: Iterable[SeriesComparison], *, brief: bool = False, verbosity: int = 1) -> list[str]:
    """Return the lines of the verdicts, the worst first.

    Args:
        brief: Only count tests without an earlier session, and omit invalid runs, which the session's summary
            reports already.
        verbosity: 1: everything; 0: only count the tests that are unchanged; -1: one line for each test that moved.
    """
    ordered = [each for each in worst_first(comparisons) if not (brief and each.head.newest.state == "invalid")]
    if verbosity < 0:
        return [_verdict(each) for each in ordered if each.fails or each.verdict in MOVED]
    recording = [
        each for each in ordered if brief and each.verdict is RegressionVerdict.RECORDING and each.refused is None
    ]
    quiet = [each for each in ordered if verbosity == 0 and _is_unremarkable(each)]
    lines = [line for each in ordered if each not in recording and each not in quiet for line in _lines(each)]
    if recording:
        tests = counted(len({each.test for each in recording}), "test", "has", "have")
        lines.append(f"recording: {tests} no earlier session to compare with, and no verdict yet")
        notes = dict.fromkeys(note for each in recording for note in each.baseline.notes)
        lines += [f"  note: {note}" for note in notes]
    if quiet:
        tests = counted(len({each.test for each in quiet}), "test")
        points = sorted({each.baseline.point.name for each in quiet})
        lines.append(f"unchanged: {tests}, against {' and '.join(points)}")
    return lines


def _is_unremarkable(comparison: SeriesComparison) -> bool:
    told = (comparison.step, comparison.creep, comparison.accepted, comparison.refused)
    is_unchanged = comparison.verdict is RegressionVerdict.UNCHANGED
    return is_unchanged and not comparison.baseline.notes and all(each is None for each in told)


_STYLES = {
    "regressed": "bold red", "suspected": "yellow", "inconclusive": "yellow", "missing": "yellow",
    "improved": "green", "unchanged": "green",
}  # fmt: skip


def verdict_style(verdict: str) -> str:
    """Return the rich style of a verdict: red is worse, yellow uncertain, green good."""
    return _STYLES.get(verdict, "")


def coloured(line: str) -> Text:
    """Return a line with the verdict at its start in colour."""
    text = Text(harmless(line))
    word = text.plain.partition(" ")[0].removesuffix(":")
    text.stylize(verdict_style(word), 0, len(word))
    return text


def comparison_data(comparison: SeriesComparison) -> dict[str, Any]:
    """Return a comparison as built-ins, for JSON; unknown values are None."""
    gate, found = comparison.gate, comparison.gate.comparison
    return {
        "test": comparison.head.newest.test,
        "parameters": comparison.head.newest.parameters,
        "verdict": str(comparison.verdict),
        "fails": comparison.fails,
        "judged": comparison.is_judged,
        "figure": gate.metric.title,
        "unit": gate.metric.unit,
        "before": _finite(gate.before),
        "after": _finite(gate.after),
        "change": _finite(found.change),
        "change_unit": "%" if found.relative else gate.metric.unit,
        "lower": _finite(found.lower),
        "upper": _finite(found.upper),
        "limit": _finite(found.limit),
        "runs": [row.run_id for row in comparison.head.rows],
        "baseline_sessions": len(comparison.level),
        "against": comparison.baseline.point.name,
        "sentence": comparison.sentence(),
        "moved": list(comparison.nodes),
        "also": [_change(each) for each in comparison.explained],
        "changed": list(comparison.subject),
        "accepted": None if comparison.accepted is None else comparison.accepted.reason,
        "notes": list(comparison.baseline.notes),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def worst_first(comparisons: Iterable[SeriesComparison]) -> list[SeriesComparison]:
    return sorted(comparisons, key=_rank)


def missing_lines(rows: Sequence[Row], head: str) -> list[str]:
    """Return a line for each test that was run before, but not at `head`."""
    return [f"missing       {row.test}: no run at {head}" for row in rows]


def across_lines(sides: Sequence[Side], width: int = _WIDTH) -> list[str]:
    """Return each test with its sides below it; the ratios are relative to its first side."""
    if not sides:
        return ["nothing to compare: no test has two values there"]
    rows: list[list[Text]] = []
    for before, side in zip([None, *sides], sides, strict=False):
        if before is None or before.test != side.test:
            rows.append([Text(side.test)])
        figures = (format_value(side.value, side.unit), f"×{side.ratio:.3g}", f"n={side.prompts}")
        rows.append([Text(f"  {side.what}"), *map(Text, figures)])
    columns = [Column(gives_way=True), *[Column(right=True)] * 3]
    return [line.plain for line in table_lines(columns, rows, width)][1:]


_ORDER = ("regressed", "suspected", "inconclusive", "missing", "recording", "improved", "unchanged")


def _rank(comparison: SeriesComparison) -> tuple[bool, int, str]:
    return not comparison.fails, _ORDER.index(comparison.verdict), comparison.test


def _verdict(comparison: SeriesComparison) -> str:
    return f"{comparison.verdict:<13} {comparison.test}: {comparison.gate.metric.title} {comparison.sentence()}"


def _lines(comparison: SeriesComparison) -> Iterator[str]:
    yield _verdict(comparison)
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
    for change in comparison.subject[:_MOST_CHANGES]:
        yield f"  changed: {change}"
    if len(comparison.subject) > _MOST_CHANGES:
        yield f"  changed: {len(comparison.subject) - _MOST_CHANGES} more"
    if not comparison.subject and comparison.level:
        yield "  changed: neither inputs nor versions: look at the code, the drivers and the machine"


def _change(change: Change) -> str:
    unit = change.metric.unit
    return f"{change.metric.title} {format_value(change.before, unit)} → {format_value(change.after, unit)}"


def ab_lines(ab: ABResult, width: int = _WIDTH) -> list[str]:
    simulated = ", SIMULATED" if ab.simulated else ""
    return [f"{test_name(ab.title)}: B against A{simulated}: {ab.verdict}", *(f"  {line}" for line in _body(ab, width))]


def _body(ab: ABResult, width: int) -> Iterator[str]:
    yield from ab.sentences()
    if ab.invalid_because is not None:
        return
    yield from _table(ab.told(), ab.pairs, width)
    told = changes(ab) or ((" → ".join(ab.labels),) if ab.labels else ())
    yield from (f"changed: {change}" for change in told[:_MOST_CHANGES])
    if len(told) > _MOST_CHANGES:
        yield f"changed: {len(told) - _MOST_CHANGES} more"
    yield from (f"note: {note}" for note in ab.notes)
    yield from _pictures(ab)
    if contaminated := sum(load.state == "contaminated" for load in (*ab.A, *ab.B)):
        yield f"CONTAMINATED: other clients used the servers during {contaminated} of {counted(2 * ab.pairs, 'run')}"


def changes(ab: ABResult) -> tuple[str, ...]:
    """Return what differs between A and B: `KSampler.steps 20 → 25`, servers, versions, hardware."""
    if not ab.A or not ab.B:
        return ()
    a, b = ab.A[0].facts, ab.B[0].facts
    ours, theirs = ({**environment_of(facts, None), "test": None, "servers": facts.servers} for facts in (a, b))
    return differences({**subject_of(a), **ours}, {**subject_of(b), **theirs})


def _table(figures: Sequence[ABFigure], pairs: int, width: int) -> Iterator[str]:
    if not figures:
        return
    columns = [Column(gives_way=True), Column("A", right=True), Column("B", right=True), Column("B ÷ A")]
    # The caller indents the table by two columns.
    yield from (line.plain for line in table_lines(columns, _rows(figures, width - 2), width - 2))
    yield f"B ÷ A is the mean ratio of {counted(pairs, 'pair')} of runs, with its 90 % interval; above ×1, B has more"


def _rows(figures: Sequence[ABFigure], width: int) -> Iterator[list[Text]]:
    """Yield the rows; a name too long to fit next to its figures gets a line of its own."""
    rows = [_row(figure) for figure in figures]
    # Cells are two columns apart.
    room = width - sum(2 + max(len(row[place]) for row in rows) for place in range(1, len(rows[0])))
    for name, *values in rows:
        if len(name) > room:
            yield [name]
            yield [Text(), *values]
        else:
            yield [name, *values]


def _row(figure: ABFigure) -> list[Text]:
    found = figure.paired()
    a, b = (format_value(statistics.median(side), figure.unit) for side in (figure.A, figure.B))
    ratio = f"×{found.value:.3g} ({format_interval(found.lower, found.upper, '')})"
    return [Text(figure.name), Text(a), Text(b), Text(ratio)]


def _pictures(ab: ABResult) -> Iterator[str]:
    known = [pair.identical for pair in ab.pictures if pair.identical is not None]
    if known:
        yield f"pictures: {counted(len(known), 'pair')} of the same seeds, {sum(known)} of them identical"
