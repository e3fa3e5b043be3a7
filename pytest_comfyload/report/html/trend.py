"""The data of the trend: a column for each figure of a line, taken only from the rows of the index."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pytest_comfyload.history.index import CheckedFigure, Row
from pytest_comfyload.metrics.comparable import ClassFigure, ComparedFigure
from pytest_comfyload.metrics.registry import METRICS, with_panel
from pytest_comfyload.metrics.spec import MetricSpec, Panel
from pytest_comfyload.report.html.encoding import figure
from pytest_comfyload.report.html.series import Line, Order, page_id

__all__ = ["Panels", "bounds_of", "commits_of", "line_data", "main_branch", "trend_data"]

# Not stored as figures of a run, but counted from its failures of each kind.
_FAILURES: dict[str, Any] = {
    "id": "failures", "title": "Failed prompts", "unit": "",
    "says": "Failures of every kind; out of memory is a line of its own.",
    "lines": [("failed", "failed"), ("oom", "out of memory")],
}  # fmt: skip
# Maximum number of additional charts, for figures with an SLO but without a chart in the registry.
MOST_CHECKED = 12
_OF_A_RUN = ("valid", "contaminated", "invalid", "incomplete")


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


@functools.cache
def _known() -> Mapping[str, tuple[str, MetricSpec]]:
    """Return the key of each figure and its metric, by the figure's name in tests."""
    return {name: (key, spec) for spec in METRICS.values() for name, key in spec.figures()}


@functools.lru_cache(maxsize=1024)
def key_of(metric: str) -> str:
    """Return the key under which a checked figure is shown; its name if it is of a part or has arguments."""
    if metric == "oom_errors":
        return "oom"
    figure = ClassFigure.read(metric)
    return _known()[metric][0] if metric in _known() else metric if figure is None else figure.key


class Panels:
    """The charts: those of the registry, and one for each other figure that has an SLO.

    `lines` of a chart are (figure, label); if it has a `band`, the area between the first two lines is shaded.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self._panels = [*(_panel(spec, spec.panel) for spec in with_panel() if spec.panel), _FAILURES]
        shown = {figure for panel in self._panels for figure, _ in panel["lines"]}
        checked = {key_of(each.metric): each for row in rows for each in row.checked}
        self._panels += [_checked_panel(key, each) for key, each in checked.items() if key not in shown][:MOST_CHECKED]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._panels)

    @property
    def figures(self) -> list[str]:
        """The figures of the charts, and the success rate."""
        return list(dict.fromkeys([*(figure for panel in self for figure, _ in panel["lines"]), "success_rate"]))


def _checked_panel(key: str, checked: CheckedFigure) -> dict[str, Any]:
    digest = hashlib.sha256(key.encode(errors="replace")).hexdigest()[:8]
    spec = _known()[checked.metric][1] if checked.metric in _known() else None
    stat = checked.metric.removeprefix(spec.name).removeprefix(".") if spec else ""
    return {
        "id": f"slo-{digest}",
        "title": ", ".join(filter(None, (spec.title, stat))) if spec else checked.metric,
        "unit": checked.unit,
        "says": spec.help if spec else "A test holds it to a bound.",
        "lines": [(key, stat or checked.metric)],
    }


def main_branch(rows: Iterable[Row]) -> str | None:
    """Return the branch with the most runs, with whose history other branches are compared."""
    runs: dict[str | None, int] = {}
    for row in rows:
        runs[row.branch] = runs.get(row.branch, 0) + 1
    return max(runs, key=lambda branch: runs[branch], default=None)


def bounds_of(rows: Sequence[Row], figures: Collection[str]) -> dict[str, dict[str, list[Any]]]:
    """Return the bounds of the tests' SLOs, by figure and operator, as steps [index of the first row, bound].

    A bound of None means that there is none. If a run has several bounds on one figure, the tightest counts.
    """
    found: dict[str, dict[str, list[Any]]] = {}
    for number, row in enumerate(rows):
        now = _bounds_at(row, figures)
        for key, ops in found.items():
            for op, steps in ops.items():
                _step(steps, number, now.pop((key, op), None))
        for (key, op), bound in now.items():
            found.setdefault(key, {})[op] = [[number, bound]]
    return found


def _bounds_at(row: Row, figures: Collection[str]) -> dict[tuple[str, str], Any]:
    bounds: dict[tuple[str, str], float] = {}
    for each in row.checked:
        place = (key_of(each.metric), each.op)
        if place[0] in figures and not math.isnan(each.bound):
            tightest = max if each.op.startswith(">") else min
            bounds[place] = tightest(each.bound, bounds.get(place, each.bound))
    return {place: figure(bound) for place, bound in bounds.items()}


def _step(steps: list[Any], number: int, bound: Any) -> None:
    if steps[-1][1] != bound:
        steps.append([number, bound])


def commits_of(rows: Iterable[Row], order: Order) -> dict[str, Row]:
    """Return one run of each commit, by the id of the commit's page, in the order of history."""
    return {page_id(row): row for row in sorted(rows, key=order)}


def trend_data(
    lines: Sequence[Mapping[str, Any]],
    commits: Mapping[str, Row],
    main: str | None,
    pages: Collection[str],
    first: str | None,
    panels: Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the data of the whole trend.

    `lines`: results of `line_data`. `pages`: the commits that have a page. `first`: the line shown initially.
    """
    return {
        "first": first,
        "main": main,
        "panels": list(panels),
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
    figures: Sequence[str],
    marks: Iterable[Any],
    changes: Mapping[int, Sequence[str]],
) -> dict[str, Any]:
    """Return the data of one line.

    `gate`: the deciding figure, to which the marks belong. `places`: the index of each page among the trend's commits.
    `figures`: those shown in a chart.
    """
    rows, newest = line.rows, line.newest
    columns: dict[str, list[Any]] = {name: [_figure(row, name) for row in rows] for name in figures}
    errors = {name for name in set[str]().union(*(row.figures for row in rows)) if name.startswith("errors.")}
    columns["failed"] = [round(math.fsum(row.figures.get(name, 0.0) for name in errors)) for row in rows]
    columns["oom"] = [figure(row.figures.get("errors.oom", 0.0)) for row in rows]
    branches = list(dict.fromkeys(row.branch for row in rows))
    return {
        "id": line.fingerprint,
        "test": newest.series_title,
        "environment": environment,
        "simulated": newest.simulated,
        "gate": [gate.name, gate.unit],
        "bounds": bounds_of(rows, columns),
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


def _figure(row: Row, name: str) -> Any:
    """Return a figure of a run; one that is not stored as such is taken from the run's checks."""
    if name in row.figures or not row.checked:
        return figure(row.figures.get(name))
    return next((figure(each.value) for each in row.checked if key_of(each.metric) == name), None)


def _seconds(time: float | None) -> int | None:
    return None if time is None else round(time)
