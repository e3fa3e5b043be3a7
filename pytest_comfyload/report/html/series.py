"""The series of the charts: the runs of one test in one environment, and the change points in them."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_comfyload.compare.acceptance import Acceptance
from pytest_comfyload.compare.commit_graph import CommitGraph
from pytest_comfyload.history.environment import computing_device
from pytest_comfyload.history.index import Row
from pytest_comfyload.metrics.change_points import ChangePoint, change_points
from pytest_comfyload.report.html.encoding import figure

__all__ = [
    "Line",
    "Order",
    "environment_words",
    "hardware_words",
    "history_order",
    "lines_of",
    "marks_of",
    "page_id",
    "short_commit",
]

Order = Callable[[Row], tuple[float, int, float, str]]


@dataclass(frozen=True, slots=True)
class Line:
    """A series. `rows` are ordered by commit, then by time of the run, since an old commit may be run again."""

    rows: tuple[Row, ...]

    @property
    def newest(self) -> Row:
        """The most recent run."""
        return max(self.rows, key=lambda row: (row.time, row.run_id))

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the environment, which includes test and parameters, so it is unique to the line."""
        return self.newest.fingerprint


def lines_of(rows: Iterable[Row], order: Order) -> list[Line]:
    """Group rows into lines, ordered by series; within a series, the environment that ran last comes first."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.fingerprint, []).append(row)
    lines = [Line(tuple(sorted(each, key=order))) for each in groups.values()]
    lines.sort(key=lambda line: line.newest.time, reverse=True)
    return sorted(lines, key=lambda line: line.newest.series)


def history_order(lineage: CommitGraph) -> Order:
    """Return the sort key of rows: ancestry, or for commits unknown to git the committer's date, else the run's time.

    The author's date is not used: it may be long before the commit entered the history.
    """

    def place(row: Row) -> tuple[float, int, float, str]:
        dated = row.time if row.committed is None else row.committed
        return *lineage.dates.get(row.commit or "", (dated, -1)), row.time, row.run_id

    return place


def page_id(row: Row) -> str:
    """Return the id of the page of the row's commit; a run without a commit has a page of its own."""
    if row.commit and re.fullmatch(r"[0-9a-f]{12,64}", row.commit):
        return row.commit[:12]
    return hashlib.sha256((row.commit or row.run_id).encode(errors="replace")).hexdigest()[:12]


def short_commit(row: Row) -> str:
    """Return the commit in short form for display; a `+` marks uncommitted changes."""
    return f"{row.commit[:10]}{'+' if row.dirty else ''}" if row.commit else "no commit"


def environment_words(environment: Mapping[str, Any]) -> str:
    """Return the hardware and the load in short form: `RTX 4090 × 2 · 24 GiB · 5 users × 3`."""
    return " · ".join(filter(None, (hardware_words(environment), str(environment.get("load") or ""))))


def hardware_words(environment: Mapping[str, Any]) -> str:
    """Return the hardware in short form: `RTX 4090 × 2 · 24 GiB`."""
    gpu = computing_device(environment)
    gpus, servers = environment.get("gpus"), environment.get("servers")
    words: Sequence[str] = (
        "SIMULATED" if environment.get("simulated") else "",
        f"{gpu} × {gpus}" if gpu and isinstance(gpus, int) and gpus > 1 else gpu,
        str(environment.get("vram") or environment.get("memory") or ""),
        f"{servers} servers" if isinstance(servers, int) and servers > 1 else "",
    )
    return " · ".join(word for word in words if word) or "unknown hardware"


def marks_of(line: Line, gate: str, branch: str | None, acceptances: Sequence[Acceptance]) -> Iterator[dict[str, Any]]:
    """Yield the change points of the gating figure on one branch, except rejected ones; `at` is a row's index."""
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
