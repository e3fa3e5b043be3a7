"""`comfyload compare`: the runs of one commit against those at or before another, test by test, with a verdict each.

Exit status: 0; 1 a test regressed, under --fail-on-regression, or has no run, under --fail-on-missing; 2 a REF or
an option that cannot be meant, or nothing to compare.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pytest_comfyload.cli.output import echo
from pytest_comfyload.cli.stores import StoreOption, Test, chosen, open_store, reading

if TYPE_CHECKING:
    from pytest_comfyload.history.index import Row

__all__ = ["compare"]


class Across(StrEnum):
    PARAMS = "params"
    GPU = "gpu"
    SERVER = "server"


def compare(
    base: Annotated[str, typer.Argument(help="Runs at or before this: a commit, branch, tag, label, latest~3 …")],
    head: Annotated[str, typer.Argument(help="The runs to judge.")] = "latest",
    store: StoreOption = None,
    scenario: Test = None,
    across: Annotated[
        Across | None,
        typer.Option(help="Instead: the ratios of HEAD's runs between parameters, GPUs or servers. Never fails."),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="The figure that decides; default: the test's own, the median generation time.")
    ] = None,
    min_effect: Annotated[float | None, typer.Option(help="The least change that counts, in percent.")] = None,
    fail_on_regression: Annotated[bool, typer.Option("--fail-on-regression", help="Exit status 1 for one.")] = False,
    fail_on_missing: Annotated[
        bool, typer.Option("--fail-on-missing", help="Exit status 1 where a test of BASE has no run at HEAD.")
    ] = False,
) -> None:
    """Say which tests became slower or faster from BASE to HEAD, by how much, and what may have caused it."""
    from pytest_comfyload.compare.acceptance import read_acceptances
    from pytest_comfyload.compare.across import across as side_by_side
    from pytest_comfyload.compare.comparing import Bench
    from pytest_comfyload.compare.lineage import Lineage
    from pytest_comfyload.compare.point import point_at, runs_at
    from pytest_comfyload.history.git import Git
    from pytest_comfyload.history.refs import select
    from pytest_comfyload.report.comparisons import across_lines, comparison_lines, missing_lines

    opened, git = open_store(store), Git(Path.cwd())

    def judge() -> tuple[list[str], bool]:
        """What to print, and whether it fails what was asked for."""
        rows = chosen(opened, scenario, None, None)
        heads = _newest_of_each(select(head, rows, git))
        if across is not None:
            return across_lines(side_by_side(heads, across.value, opened.load, metric)), False
        lineage = Lineage(git)
        point = point_at(base, rows, lineage)
        bench = Bench(rows, opened.load, lineage, read_acceptances(git.root))
        found = [bench.judge(row, point, gate=metric, least_effect=min_effect) for row in heads]
        gone = bench.missing(runs_at(point, rows), heads)
        fails = (fail_on_regression and any(each.fails for each in found)) or (fail_on_missing and bool(gone))
        return [*comparison_lines(found), *missing_lines(gone, head)], fails

    lines, fails = reading(opened, judge)
    for line in lines:
        echo(line)
    if fails:
        raise typer.Exit(1)


def _newest_of_each(rows: list[Row]) -> list[Row]:
    """One run of each test on each kind of hardware, in the order of the tests' names."""
    newest = {(row.series, row.fingerprint): row for row in sorted(rows, key=lambda row: row.time)}
    return sorted(newest.values(), key=lambda row: (row.series, row.time))
