"""The trend's data: bounds as they were at each commit, and a chart for each figure that an SLO is about."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.history.index import CheckedFigure, Row, row_of
from pytest_comfyload.history.record import Record, TestChecks
from pytest_comfyload.history.store import Store
from pytest_comfyload.report.html.content import Content
from pytest_comfyload.report.html.trend import Panels, bounds_of, key_of
from pytest_comfyload.result.checks import Check
from tests.benchmarks.histories import record

_ROW = row_of("a.run", record(1))


def _store(folder: Path, bounds: list[float | None]) -> Store:
    """Store runs with these bounds on p90 and one on goodput; None means that the test did not get that far."""
    store = Store.open(folder)
    for number, bound in enumerate(bounds):
        store.add(_held(record(number, come={"branch": "main", "session": str(number)}), bound))
    return store


def _held(made: Record, bound: float | None) -> Record:
    load = made.load()
    checks = () if bound is None else (
        Check.of(load.total_time.p90, "<", bound, bool(load.total_time.p90 < bound)),
        Check.of(load.goodput(total_time=5).share, ">", 90.0, False),
    )  # fmt: skip
    return msgspec.structs.replace(made, checks=(TestChecks("test", checks, () if checks else ("load.x < 1",)),))


def _trend(folder: Path, bounds: list[float | None]) -> Any:
    return Content(_store(folder / "store", bounds), folder).trend(())


def test_bounds_are_those_of_each_commit(tmp_path: Path) -> None:
    (line,) = _trend(tmp_path, [6.0, 6.0, 5.0, None, 5.0])["lines"]
    assert line["bounds"]["total_time.p90"] == {"<": [[0, 6], [2, 5], [3, None], [4, 5]]}


def test_what_an_slo_is_about_has_a_chart_with_its_values(tmp_path: Path) -> None:
    trend = _trend(tmp_path, [6.0, None])
    panels = {panel["title"]: panel for panel in trend["panels"]}
    ((p90, short),) = panels["Total time, p90"]["lines"]
    assert (p90, short, panels["Total time, p90"]["unit"]) == ("total_time.p90", "p90", "s")
    ((goodput, _),) = panels["goodput(total_time=5).share"]["lines"]
    (line,) = trend["lines"]
    # Not a figure of every run: it is only known where the test queried it.
    first, second = line["figures"][goodput]
    assert 0 <= first <= 100
    assert second is None
    assert line["bounds"][goodput] == {">": [[0, 90], [1, None]]}


def test_energy_is_charted_by_its_key() -> None:
    assert key_of("gpu.energy_per_image") == "gpu.energy.per_image"
    assert key_of("oom_errors") == "oom"
    assert key_of("node_time[KSampler].p50") == "node_time.KSampler.p50"
    assert key_of("[ckpt=sdxl] total_time.p95") == "[ckpt=sdxl] total_time.p95"


def test_a_store_with_many_checked_figures_has_few_more_charts() -> None:
    checked = tuple(CheckedFigure(f"goodput(total_time={n}).share", "%", 1.0, ">", 90.0) for n in range(500))
    assert len(list(Panels([msgspec.structs.replace(_ROW, checked=checked)]))) < 30


@given(st.lists(st.one_of(st.none(), st.sampled_from([1.0, 2.0, 3.0])), max_size=12))
def test_the_steps_say_what_the_bound_of_each_row_was(bounds: list[float | None]) -> None:
    steps = bounds_of([_row(bound) for bound in bounds], {"total_time.p95"}).get("total_time.p95", {}).get("<", [])
    told: list[float | None] = []
    for number in range(len(bounds)):
        told.append(next((bound for at, bound in reversed(steps) if at <= number), None))
    assert told == bounds
    assert all(one[1] != two[1] for one, two in pairwise(steps))


def _row(bound: float | None) -> Row:
    checked = () if bound is None else (CheckedFigure("total_time.p95", "s", 1.5, "<", bound),)
    return msgspec.structs.replace(_ROW, checked=checked)


def test_of_two_bounds_on_a_figure_the_tightest_counts() -> None:
    both = tuple(CheckedFigure("throughput", "images/min", 9.0, ">", bound) for bound in (4.0, 8.0))
    row = msgspec.structs.replace(_ROW, checked=both)
    assert bounds_of([row], {"throughput"}) == {"throughput": {">": [[0, 8]]}}
