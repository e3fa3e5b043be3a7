"""`comfyload history` and `comfyload prune`: the stored runs, listed and deleted."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pytest_comfyload.cli.options import Branch, Label, StoreOption, Test, chosen, open_store
from pytest_comfyload.cli.output import echo, echo_json
from pytest_comfyload.errors import UsageError
from pytest_comfyload.text import harmless

if TYPE_CHECKING:
    from pytest_comfyload.history.index import Row

__all__ = ["list_runs", "prune"]


def list_runs(
    ref: Annotated[
        str | None,
        typer.Argument(help="Only these: a commit, branch, tag, run id, label, @DATE, latest or latest~3."),
    ] = None,
    store: StoreOption = None,
    scenario: Test = None,
    branch: Branch = None,
    label: Label = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with all figures.")] = False,
) -> None:
    """List the runs that were kept: when, of which commit, what they came to."""
    rows = chosen(open_store(store), scenario, branch, label)
    if ref is not None:
        from pathlib import Path

        from pytest_comfyload.history.git import Git
        from pytest_comfyload.history.refs import select

        rows = select(ref, rows, Git(Path.cwd()))
    if as_json:
        echo_json([_plain(row) for row in rows[:limit]])
    else:
        _show(rows, limit)


def _plain(row: Row) -> dict[str, Any]:
    """JSON has no infinity: a percentile that lies among failures is null."""
    import msgspec

    plain: dict[str, Any] = json.loads(msgspec.json.encode(row))
    return plain


def _show(rows: list[Row], limit: int) -> None:
    import shutil

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        typer.echo("no runs")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("when (UTC)", "commit", "branch"):
        table.add_column(name, no_wrap=True)
    table.add_column("test", overflow="fold")
    table.add_column("state", no_wrap=True)
    for name in ("generation p50", "total p95", "SLOs"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows[:limit]:
        table.add_row(*(Text(harmless(cell)) for cell in _cells(row)))
    console = Console(width=max(100, shutil.get_terminal_size((140, 24)).columns), highlight=False, emoji=False)
    console.print(table)
    if len(rows) > limit:
        typer.echo(f"… and {len(rows) - limit} older ones (--limit)")


def _cells(row: Row) -> tuple[str, ...]:
    from datetime import UTC, datetime

    met, of = row.slos
    commit = (row.commit or "–")[:12] + ("*" if row.dirty else "")
    named = " ".join(filter(None, (row.series_title, _names(row))))
    return (
        datetime.fromtimestamp(row.time, UTC).strftime("%Y-%m-%d %H:%M:%S"),
        commit,
        row.branch or "–",
        named,
        row.state + (", simulated" if row.simulated else ""),
        _seconds(row, "generation_time.p50"),
        _seconds(row, "total_time.p95"),
        f"{met}/{of}" if of else "–",
    )


def _names(row: Row) -> str:
    names = [name for name in (row.tag, row.label) if name]
    return f"({', '.join(names)})" if names else ""


def _seconds(row: Row, figure: str) -> str:
    from pytest_comfyload.result.checks import format_value

    value = row.figures.get(figure)
    return "–" if value is None else format_value(value, "s")


def prune(
    keep: Annotated[int | None, typer.Option(min=0, help="Keep the newest N of each test and environment.")] = None,
    older_than: Annotated[str | None, typer.Option(help="Delete only what is older: 90d, 12h.")] = None,
    named: Annotated[bool, typer.Option("--named", help="Also those with a label or of a tagged commit.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted, and delete nothing.")] = False,
    store: StoreOption = None,
) -> None:
    """Delete old runs; with both --keep and --older-than, the runs that both select."""
    from pytest_comfyload.history.store import superfluous

    if keep is None and older_than is None:
        raise UsageError("prune needs to know what is old: give --keep N, --older-than 90d, or both")
    before = None if older_than is None else time.time() - _age(older_than)
    opened = open_store(store)
    rows = chosen(opened, None, None, None)
    for row in superfluous(rows, keep=keep, before=before, named=named):
        echo(f"{'would delete' if dry_run else 'deleted'} {row.run_id} {row.test}")
        if not dry_run:
            opened.remove(row)
    if not dry_run:
        opened.remove_parts()


_DAY = 24 * 3600.0


def _age(text: str) -> float:
    """Seconds. Raises: UsageError."""
    from pytest_comfyload.metrics.units import parse_duration

    days = text.removesuffix("d")
    if days != text and days.isdecimal():
        return int(days) * _DAY
    return parse_duration(text, "--older-than")
