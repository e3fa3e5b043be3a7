"""The data of the trend: one column for each figure of a line, from the rows of the index alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from pytest_comfyload.history.index import Row
from pytest_comfyload.history.record import Record
from pytest_comfyload.metrics.comparable import ComparedFigure
from pytest_comfyload.metrics.registry import with_panel
from pytest_comfyload.metrics.spec import MetricSpec, Panel
from pytest_comfyload.report.html.encoding import figure
from pytest_comfyload.report.html.series import Line, Order, page_id

__all__ = ["bounds_of", "commits_of", "line_data", "main_branch", "trend_data"]

# No figures of a run: counted from the failures of each kind.
_FAILURES: dict[str, Any] = {
    "id": "failures", "title": "Failed prompts", "unit": "",
    "says": "Of every kind; out of memory by themselves.",
    "lines": [("failed", "failed"), ("oom", "out of memory")],
}  # fmt: skip
# What a test compares, by the figure in which it is shown.
_CHECKED_AS = {"oom_errors": "oom"}
_OF_A_RUN = ("valid", "contaminated", "invalid", "incomplete")


def _panels() -> list[dict[str, Any]]:
    """The charts; `lines` are (figure, its name there); between the first two of a `band` the area is shaded."""
    return [*(_panel(spec, spec.panel) for spec in with_panel() if spec.panel), _FAILURES]


def _panel(spec: MetricSpec, panel: Panel) -> dict[str, Any]:
    lines = [
        (f"{spec.key or spec.name}.{stat}" if stat else spec.name, {"max": "peak", "": spec.name}.get(stat, stat))
        for stat in panel.stats
    ]
    described = {
        "id": panel.id,
        "title": panel.title or spec.title,
        "unit": spec.unit,
        "says": panel.caption,
        "lines": lines,
    }
    return described | ({"band": True} if panel.band else {}) | ({"zone": panel.zone} if panel.zone else {})


def _shown() -> list[str]:
    """The figures of the charts, and the success rate."""
    lines = (figure for panel in _panels() if panel is not _FAILURES for figure, _ in panel["lines"])
    return [*lines, "success_rate"]


def main_branch(rows: Iterable[Row]) -> str | None:
    """The one with most runs: its history is what others are seen against."""
    runs: dict[str | None, int] = {}
    for row in rows:
        runs[row.branch] = runs.get(row.branch, 0) + 1
    return max(runs, key=lambda branch: runs[branch], default=None)


def bounds_of(record: Record) -> dict[str, list[dict[str, Any]]]:
    """The bounds that tests hold the run's figures against, by figure."""
    bounds: dict[str, list[dict[str, Any]]] = {}
    for test in record.checks:
        for check in test.checks:
            bound = {"op": check.op, "bound": figure(check.bound)}
            known = bounds.setdefault(_CHECKED_AS.get(check.metric, check.metric), [])
            if bound not in known:
                known.append(bound)
    return {name: each for name, each in bounds.items() if name in (*_shown(), "oom")}


def commits_of(rows: Iterable[Row], order: Order) -> dict[str, Row]:
    """Return one of the runs of each commit, by the id of its page, in the order of history."""
    return {page_id(row): row for row in sorted(rows, key=order)}


def trend_data(
    lines: Sequence[Mapping[str, Any]],
    commits: Mapping[str, Row],
    main: str | None,
    pages: Collection[str],
    first: str | None,
) -> dict[str, Any]:
    """`lines` as `line_data` gives them; `pages`: the commits that have a page; `first`: the line that is shown."""
    return {
        "first": first,
        "main": main,
        "panels": _panels(),
        "states": _OF_A_RUN,
        "commits": {
            "id": list(commits),
            "name": [row.commit[:10] if row.commit else "" for row in commits.values()],
            "title": [row.title or "" for row in commits.values()],
            "author": [row.author or "" for row in commits.values()],
            "date": [_seconds(row.date if row.committed is None else row.committed) for row in commits.values()],
            "tag": [row.tag or "" for row in commits.values()],
            "page": [int(name in pages) for name in commits],
        },
        "lines": list(lines),
    }


def line_data(
    line: Line,
    environment: str,
    *,
    gate: ComparedFigure,
    places: Mapping[str, int],
    bounds: Mapping[str, Any],
    marks: Iterable[Any],
    changes: Mapping[int, Sequence[str]],
) -> dict[str, Any]:
    """`gate`: the figure that decides, of which the marks are. `places`: of each page among the trend's commits."""
    rows, newest = line.rows, line.newest
    columns: dict[str, list[Any]] = {name: [figure(row.figures.get(name)) for row in rows] for name in _shown()}
    columns["failed"] = [_failed(row) for row in rows]
    columns["oom"] = [figure(row.figures.get("errors.oom", 0.0)) for row in rows]
    branches = list(dict.fromkeys(row.branch for row in rows))
    return {
        "id": line.fingerprint,
        "test": newest.series_title,
        "environment": environment,
        "simulated": newest.simulated,
        "gate": [gate.name, gate.unit],
        "bounds": bounds,
        "marks": list(marks),
        "changes": {str(index): list(each) for index, each in changes.items()},
        "branches": branches,
        "branch": [branches.index(row.branch) for row in rows],
        "commit": [places[page_id(row)] for row in rows],
        "time": [round(row.time) for row in rows],
        "state": [_OF_A_RUN.index(row.state) if row.state in _OF_A_RUN else 2 for row in rows],
        "dirty": [index for index, row in enumerate(rows) if row.dirty],
        "figures": {name: values for name, values in columns.items() if any(each is not None for each in values)},
    }


def _failed(row: Row) -> int:
    return round(math.fsum(value for name, value in row.figures.items() if name.startswith("errors.")))


def _seconds(time: float | None) -> int | None:
    return None if time is None else round(time)
