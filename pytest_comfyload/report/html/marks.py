"""Where a line steps to another level, and what people have said of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from pytest_comfyload.compare.acceptance import Acceptance
from pytest_comfyload.metrics.change_points import ChangePoint, change_points
from pytest_comfyload.report.html.lines import Line
from pytest_comfyload.report.html.plain import figure

__all__ = ["marks_of"]


def marks_of(line: Line, gate: str, branch: str | None, acceptances: Sequence[Acceptance]) -> Iterator[dict[str, Any]]:
    """Of the figure that decides, on one branch; `at` is the index of the row. A rejected change is none."""
    rows = line.rows
    counted = [
        number
        for number, row in enumerate(rows)
        if row.branch == branch and row.state == "valid" and not row.dirty
        if math.isfinite(row.figures.get(gate, math.nan))
    ]
    for point in change_points([rows[number].figures[gate] for number in counted]):
        row, before = rows[counted[point.index]], rows[counted[point.index - 1]]
        said = next((each for each in acceptances if each.covers(before, row)), None)
        if said is None or said.accepted:
            yield {"at": counted[point.index], **_sides(point), "accepted": said.reason if said else None}


def _sides(point: ChangePoint) -> dict[str, Any]:
    return {"before": figure(point.before), "after": figure(point.after), "change": figure(point.change, 3)}
