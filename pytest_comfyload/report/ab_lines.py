"""B against A as lines of text: the verdict and its sentence, the figures side by side, and what was changed."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from pytest_comfyload.compare.differences import differences
from pytest_comfyload.history.environment import environment_of, subject_of
from pytest_comfyload.metrics.units import format_interval, format_value
from pytest_comfyload.result.ab_figure import ABFigure
from pytest_comfyload.result.ab_result import ABResult

__all__ = ["ab_lines", "changes"]

# Of what was changed, a person reads so many lines.
_MOST_CHANGES = 5


def ab_lines(ab: ABResult) -> list[str]:
    simulated = ", SIMULATED" if ab.simulated else ""
    return [f"{ab.title}: B against A{simulated}: {ab.verdict}", *(f"  {line}" for line in _body(ab))]


def _body(ab: ABResult) -> Iterator[str]:
    yield ab.sentence()
    if ab.invalid_because is not None:
        return
    yield from _table(ab.told())
    told = changes(ab)
    yield from (f"changed: {change}" for change in told[:_MOST_CHANGES])
    if len(told) > _MOST_CHANGES:
        yield f"changed: {len(told) - _MOST_CHANGES} more"
    yield from _pictures(ab)
    if contaminated := sum(load.state == "contaminated" for load in (*ab.A, *ab.B)):
        yield f"CONTAMINATED: others used the servers during {contaminated} of {2 * ab.pairs} runs"


def changes(ab: ABResult) -> tuple[str, ...]:
    """What is not the same in A and B: `KSampler.steps 20 → 25`, servers, versions, hardware."""
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
