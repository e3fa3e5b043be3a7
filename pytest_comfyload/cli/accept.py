"""`comfyload accept`: a decision on a change of speed, in a file that is committed with the code."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pytest_comfyload.cli.output import echo
from pytest_comfyload.cli.stores import StoreOption, open_store
from pytest_comfyload.errors import UsageError

if TYPE_CHECKING:
    from pytest_comfyload.history.git import Git

__all__ = ["accept"]


def accept(
    reason: Annotated[str, typer.Option(help="Reason for the change; shown in reports.")],
    ref: Annotated[str | None, typer.Argument(help="The commit that made the change, as git names it.")] = None,
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="ID", help="Instead of a commit: the first run with the change (a nightly's)."),
    ] = None,
    date: Annotated[
        str | None, typer.Option("--date", metavar="DAY", help="Instead: since when, UTC: 2026-01-31, or with T14:00.")
    ] = None,
    test: Annotated[
        str | None, typer.Option(help="Of this test only (its id, as `comfyload history` shows it).")
    ] = None,
    reject: Annotated[bool, typer.Option("--reject", help="It is noise: mark it no more.")] = False,
    store: StoreOption = None,
) -> None:
    """Accept a slowdown or a gain: it fails no comparison, and the level begins anew with it."""
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
    """When the first run of its session began, of all the session's tests. Raises: UsageError, StoreError."""
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
