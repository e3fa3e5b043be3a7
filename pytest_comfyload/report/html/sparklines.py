"""Small static drawings of a series, for the row of a scenario and for the grid of all series."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pytest_comfyload.history.index import Row
from pytest_comfyload.history.record import Record
from pytest_comfyload.metrics.change_points import change_points
from pytest_comfyload.metrics.comparable import stored_gate
from pytest_comfyload.metrics.units import counted, format_value
from pytest_comfyload.report.html.series import Line, hardware_words
from pytest_comfyload.report.html.trend import bounds_of

__all__ = ["SeriesCard", "Sparkline", "card_of", "sparkline"]

# Maximum number of runs drawn in a row, and in a card.
ROW_RUNS, CARD_RUNS = 30, 200
_EDGE = 3.0


@dataclass(frozen=True, slots=True)
class Sparkline:
    """The last runs on a branch, in a box of the given width and height; the newest is on the right.

    `points` are the (x, y) of the line; `gone` the x of runs without a finite value; `steps` the x of change points.
    `bounds` are (from x, to x, y) of the bounds that the runs were checked against, each for as long as it applied;
    those far above the values are left out.
    """

    width: float
    height: float
    points: tuple[tuple[float, float], ...]
    gone: tuple[float, ...]
    steps: tuple[float, ...]
    bounds: tuple[tuple[float, float, float], ...]
    words: str

    @property
    def line(self) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)

    @property
    def levels(self) -> tuple[float, ...]:
        """The heights of the points, from 0 at the bottom to 1 at the top."""
        return tuple((self.height - _EDGE - y) / (self.height - 2 * _EDGE) for _, y in self.points)


@dataclass(frozen=True, slots=True)
class SeriesCard:
    """One series in the grid; `value` is the newest value, `bound` the SLO on it, if any."""

    line: Line
    hardware: str
    figure: str
    value: str
    bound: str
    spark: Sparkline


def card_of(line: Line, record: Record) -> SeriesCard:
    head = line.newest
    metric = stored_gate(head.gate)
    value = head.figures.get(head.gate, math.nan)
    bounds = [bound for *_, bound in _bounds([head], head.gate)]
    return SeriesCard(
        line=line,
        hardware=hardware_words(record.environment),
        figure=metric.title,
        value=format_value(value, metric.unit) if math.isfinite(value) else "–",
        bound=f"SLO {format_value(bounds[0], metric.unit)}" if bounds else "",
        spark=sparkline(line, head, runs=CARD_RUNS, width=280.0, height=72.0),
    )


def sparkline(line: Line, head: Row, *, runs: int = ROW_RUNS, width: float = 120.0, height: float = 28.0) -> Sparkline:
    """Draw the deciding figure over the last runs on the head's branch."""
    rows = [row for row in line.rows if row.state == "valid" and (row.branch == head.branch or row is head)][-runs:]
    values = [row.figures.get(head.gate, math.nan) for row in rows]
    known = [(number, value) for number, value in enumerate(values) if math.isfinite(value)]
    if not known:
        return Sparkline(width, height, (), (), (), (), "no figures")
    finite = [value for _, value in known]
    bounds = [each for each in _bounds(rows, head.gate) if each[2] <= 3 * max(finite)]
    levels = [*finite, *(bound for *_, bound in bounds)]
    # The scale spans at least ±10 % of the median; otherwise noise would fill the box.
    usual = statistics.median(finite)
    low, high = min(*levels, 0.9 * usual), max(*levels, 1.1 * usual)
    across = (width - 2 * _EDGE) / max(1, len(values) - 1)

    def x(number: int) -> float:
        return _EDGE + across * number if len(values) > 1 else width - _EDGE

    def y(value: float) -> float:
        share = 0.5 if high == low else (value - low) / (high - low)
        return height - _EDGE - share * (height - 2 * _EDGE)

    return Sparkline(
        width,
        height,
        points=tuple((x(number), y(value)) for number, value in known),
        gone=tuple(x(number) for number, value in enumerate(values) if not math.isfinite(value)),
        steps=tuple(x(known[step.index][0]) for step in change_points(finite)),
        bounds=tuple(
            (x(begin) if begin else 0.0, x(end) if end < len(rows) else width, y(bound)) for begin, end, bound in bounds
        ),
        words=_in_words(finite),
    )


def _bounds(rows: Sequence[Row], figure: str) -> Iterator[tuple[int, int, float]]:
    """Yield the bounds of SLOs on a figure, as (first row, end row, bound)."""
    for steps in bounds_of(rows, [figure]).get(figure, {}).values():
        for (begin, bound), (end, _) in pairwise([*steps, (len(rows), None)]):
            if isinstance(bound, int | float):
                yield begin, end, bound


def _in_words(values: Sequence[float]) -> str:
    least, most, last = (format_value(value, "") for value in (min(values), max(values), values[-1]))
    return f"the last {counted(len(values), 'run')}: {least} to {most}, now {last}"
