"""`comfyload compare`: compare the runs of one commit with those at or before another, with a verdict for each test.

Exit status: 0 on success; 1 with --fail-on-regression if a test regressed or, without --allow-no-baseline, has too
few earlier runs for a verdict, or with --fail-on-missing if a test has no run; 2 for an invalid REF or option, or if
there is nothing to compare.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pytest_comfyload.cli.options import StoreOption, Test, chosen, open_store, reading
from pytest_comfyload.cli.output import echo, echo_json, echo_lines, screen_width
from pytest_comfyload.errors import UsageError

if TYPE_CHECKING:
    from rich.text import Text

    from pytest_comfyload.compare.comparison import Side
    from pytest_comfyload.compare.series_comparison import SeriesComparison
    from pytest_comfyload.history.git import Git
    from pytest_comfyload.history.index import Row

__all__ = ["accept", "compare"]


class Across(StrEnum):
    PARAMS = "params"
    GPU = "gpu"
    SERVER = "server"


def compare(
    base: Annotated[
        str, typer.Argument(metavar="REF", help="Runs at or before this: a commit, branch, tag, label, latest~3 …")
    ],
    head: Annotated[str, typer.Argument(metavar="REF", help="The runs to judge.")] = "latest",
    store: StoreOption = None,
    scenario: Test = None,
    across: Annotated[
        Across | None,
        typer.Option(help="Compare HEAD's runs with each other by parameter, GPU or server, instead; never fails."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC", help="Metric that decides (default: the test's own, else the median generation time)."
        ),
    ] = None,
    min_effect: Annotated[
        float | None,
        typer.Option(
            metavar="PERCENT", help="Smallest change that counts, in percent; metrics that can be 0 keep their own."
        ),
    ] = None,
    fail_on_regression: Annotated[
        bool,
        typer.Option(
            "--fail-on-regression",
            help="Exit with status 1 if a test became slower, or has too few earlier runs for a verdict.",
        ),
    ] = False,
    allow_no_baseline: Annotated[
        bool,
        typer.Option("--allow-no-baseline", help="Exit with status 0 if there are too few earlier runs for a verdict."),
    ] = False,
    fail_on_missing: Annotated[
        bool, typer.Option("--fail-on-missing", help="Exit with status 1 if a test of BASE has no run at HEAD.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: each verdict with its figures.")] = False,
) -> None:
    """Show which tests became slower or faster from BASE to HEAD, by how much, and possible causes."""
    from pytest_comfyload.compare.acceptance import read_acceptances
    from pytest_comfyload.compare.baseline_runs import point_at, runs_at
    from pytest_comfyload.compare.commit_graph import CommitGraph
    from pytest_comfyload.compare.comparison import RunComparer
    from pytest_comfyload.compare.comparison import across as side_by_side
    from pytest_comfyload.history.git import Git
    from pytest_comfyload.history.refs import select

    _refuse_percent(min_effect, metric)
    opened, git = open_store(store), Git(Path.cwd())

    def judge() -> _Verdicts:
        kept = chosen(opened, scenario, None, None)
        # The runs of A/B comparisons are judged against each other; they count as ordinary runs if there are no others.
        rows = [row for row in kept if row.comparison is None] or kept
        heads = _newest_of_each(select(head, rows, git))
        if across is not None:
            return _Verdicts(base, head, across=across, sides=side_by_side(heads, across.value, opened.load, metric))
        lineage = CommitGraph(git)
        point = point_at(base, rows, lineage)
        bench = RunComparer(rows, opened.load, lineage, read_acceptances(git.root))
        found = [each for row in heads for each in bench.judge_each(row, point, gate=metric, least_effect=min_effect)]
        gone = bench.missing(runs_at(point, rows), heads)
        unjudged = [each for each in found if not each.is_judged]
        trouble = git.trouble() if unjudged or any(each.baseline.notes for each in found) else None
        worse = any(each.fails for each in found) or bool(unjudged and not allow_no_baseline)
        fails = (fail_on_regression and worse) or (fail_on_missing and bool(gone))
        return _Verdicts(base, head, fails, found, gone, (trouble,) if trouble else ())

    verdicts = reading(opened, judge)
    if as_json:
        echo_json(verdicts.data())
    else:
        echo_lines(verdicts.lines())
    if verdicts.fails:
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class _Verdicts:
    """The verdicts to print; `fails`: a condition of --fail-on-regression or --fail-on-missing is met."""

    base: str
    head: str
    fails: bool = False
    found: Sequence[SeriesComparison] = ()
    missing: Sequence[Row] = ()
    notes: Sequence[str] = ()
    across: Across | None = None
    sides: Sequence[Side] = ()

    def lines(self) -> list[Text | str]:
        from pytest_comfyload.report.comparisons import across_lines, coloured, comparison_lines, missing_lines

        if self.across is not None:
            return [*across_lines(self.sides, screen_width())]
        notes = [f"note: {note}" for note in self.notes]
        return [*map(coloured, [*comparison_lines(self.found), *missing_lines(self.missing, self.head), *notes])]

    def data(self) -> dict[str, Any]:
        from dataclasses import asdict

        from pytest_comfyload.report.comparisons import comparison_data, worst_first

        schema = "comfyload.compare/1"
        if self.across is not None:
            return {"schema": schema, "head": self.head, "across": self.across, "sides": [*map(asdict, self.sides)]}
        return {
            "schema": schema,
            "base": self.base,
            "head": self.head,
            "fails": self.fails,
            "comparisons": [comparison_data(each) for each in worst_first(self.found)],
            "missing": [row.series_title for row in self.missing],
            "notes": list(self.notes),
        }


def _refuse_percent(min_effect: float | None, metric: str | None) -> None:
    """Raise UsageError if --min-effect is given for a metric that is not compared in percent."""
    from pytest_comfyload.metrics.comparable import compared

    if min_effect is not None and metric is not None and not compared(metric).scale.relative:
        raise UsageError(
            f"--min-effect is in percent, and {metric}, which can be 0, is compared by difference; leave it out"
        )


def _newest_of_each(rows: list[Row]) -> list[Row]:
    """Select the newest run of each test on each kind of hardware, in the order of the tests' names."""
    newest = {(row.series, row.fingerprint): row for row in sorted(rows, key=lambda row: row.time)}
    return sorted(newest.values(), key=lambda row: (row.series, row.time))


def accept(
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Reason for the change; shown in reports.")],
    ref: Annotated[
        str | None, typer.Argument(metavar="REF", help="The commit that made the change, as git names it.")
    ] = None,
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="ID", help="The first run with the change, instead of a commit (nightly runs)."),
    ] = None,
    date: Annotated[
        str | None,
        typer.Option(
            "--date",
            metavar="DAY",
            help="The time of the change in UTC, instead of a commit: 2026-01-31 or 2026-01-31T14:00.",
        ),
    ] = None,
    test: Annotated[
        str | None, typer.Option(metavar="ID", help="Only for this test (its id, as `comfyload history` shows it).")
    ] = None,
    reject: Annotated[bool, typer.Option("--reject", help="Record it as noise, which is no longer reported.")] = False,
    store: StoreOption = None,
) -> None:
    """Accept a change of speed: it no longer fails comparisons, and later runs are compared with the new level."""
    from pytest_comfyload.compare.acceptance import Acceptance, add_acceptance
    from pytest_comfyload.history.git import Git

    if sum(each is not None for each in (ref, run, date)) != 1:
        raise UsageError("name one of: the commit, --run ID, --date DAY")
    if not reason.strip():
        raise UsageError("--reason is empty; give the reason for the change")
    git = Git(Path.cwd())
    decision, today = "rejected" if reject else "accepted", time.strftime("%Y-%m-%d", time.gmtime())
    change = Acceptance(
        commit=_commit(ref, git) if ref is not None else "",
        reason=reason,
        decision=decision,
        test=test,
        date=today,
        since=_start_of(run, store) if run is not None else _time(date) if date is not None else None,
        run=run,
    )
    path = add_acceptance(git.root, change)
    echo(f"{change.what} is {decision}: {path.name} says so; commit it")


def _commit(ref: str, git: Git) -> str:
    commit = git.commit(ref)
    if commit is None:
        raise UsageError(f"{ref!r} is not a commit that git knows here; give one as `git log` shows it, or --run ID")
    return commit[:12]


def _start_of(run: str, store: str | None) -> str:
    """Return the start of the first run in the session of `run`. Raises: UsageError, StoreError."""
    rows = open_store(store).runs()
    named = [row for row in rows if row.run_id == run]
    if not named:
        raise UsageError(f"no run {run!r} in the store; `comfyload history` lists them")
    session = [row.time for row in rows if row.session is not None and row.session == named[0].session]
    began = datetime.fromtimestamp(min(session, default=named[0].time), UTC)
    return began.replace(microsecond=0).isoformat().replace("+00:00", "Z")


def _time(date: str) -> str:
    try:
        datetime.fromisoformat(date)
    except ValueError:
        raise UsageError(f"--date {date!r} is not a date; write 2026-01-31 or 2026-01-31T14:00, in UTC") from None
    return date
