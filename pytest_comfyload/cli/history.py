"""`comfyload history` and `comfyload prune`: list and delete stored runs."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from pytest_comfyload.cli.options import Branch, Label, StoreOption, Test, chosen, open_store
from pytest_comfyload.cli.output import echo, echo_json, echo_lines, screen_width
from pytest_comfyload.errors import UsageError
from pytest_comfyload.text import harmless_line

if TYPE_CHECKING:
    from rich.text import Text

    from pytest_comfyload.history.index import Row

__all__ = ["list_runs", "prune"]


def list_runs(
    ref: Annotated[
        str | None,
        typer.Argument(
            metavar="REF", help="Only these: a commit, branch, tag, run id, label, @DATE, latest or latest~3."
        ),
    ] = None,
    store: StoreOption = None,
    scenario: Test = None,
    branch: Branch = None,
    label: Label = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of entries; an A/B comparison is one.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with all figures.")] = False,
) -> None:
    """List stored runs: time, commit and figures."""
    rows = found = chosen(open_store(store), scenario, branch, label)
    if ref is not None:
        from pytest_comfyload.history.git import Git
        from pytest_comfyload.history.refs import select

        found = select(ref, rows, Git(Path.cwd()))
    if as_json:
        echo_json({"schema": "comfyload.history/1", "runs": [_plain(row) for row in found[:limit]]})
    else:
        _show(_entries(found, rows), limit)


def _plain(row: Row) -> dict[str, Any]:
    """Return a row as built-ins; a percentile that lies among failures is None, as JSON has no infinity."""
    import msgspec

    plain: dict[str, Any] = json.loads(msgspec.json.encode(row))
    return plain


# A single run, or all runs of an A/B comparison, the newest first.
_Entry: TypeAlias = "tuple[Row, ...]"


def _entries(found: Iterable[Row], rows: Iterable[Row]) -> list[_Entry]:
    """Group the found runs into entries; a comparison is completed from `rows` by runs that were not selected."""
    comparisons: dict[str, list[Row]] = {}
    for row in rows:
        if row.comparison is not None:
            comparisons.setdefault(row.comparison, []).append(row)
    entries = {row.comparison or row.run_id: tuple(comparisons.get(row.comparison or "", [row])) for row in found}
    return list(entries.values())


def _show(entries: Sequence[_Entry], limit: int) -> None:
    from rich.text import Text

    from pytest_comfyload.metrics.units import counted
    from pytest_comfyload.report.table import Column, table_lines

    if not entries:
        echo("no runs")
        return
    figures = ("generation p50", "total p95", "SLOs")
    columns = [
        Column("UTC"), *(Column(name, right=True) for name in figures), Column("run"), Column("test", gives_way=True),
    ]  # fmt: skip
    rows: list[list[Text]] = []
    for heading, group in itertools.groupby(entries[:limit], key=_heading):
        rows.append([Text(heading, style="bold")])
        rows += map(_cells, group)
    echo_lines(table_lines(columns, rows, screen_width()))
    if len(entries) > limit:
        echo(f"… and {counted(len(entries) - limit, 'older one')} (--limit)")


def _heading(entry: _Entry) -> str:
    """Return the heading: `2026-01-31  0123456789*  main  v1.2, before the upgrade  SIMULATED`."""
    row = entry[0]
    commit = f"{row.commit[:10]}{'*' if row.dirty else ''}" if row.commit else "no commit"
    names = ", ".join(name for name in (row.tag, row.label) if name)
    day = time.strftime("%Y-%m-%d", time.gmtime(row.time))
    return harmless_line(
        "  ".join(filter(None, (day, commit, row.branch, names, "SIMULATED" if row.simulated else "")))
    )


def _cells(entry: _Entry) -> list[Text]:
    from rich.text import Text

    from pytest_comfyload.report.terminal import short_id

    row, (met, of) = entry[0], entry[0].slos
    at = Text(time.strftime("%H:%M:%S", time.gmtime(row.time)))
    if row.comparison is not None:
        return [at, *[Text()] * 3, Text(short_id(row.run_id), style="dim"), Text(harmless_line(_of_pairs(entry)))]
    state = "" if row.state == "valid" else f" ({row.state.upper()})"
    return [
        at,
        *(Text(_seconds(row, figure)) for figure in ("generation_time.p50", "total_time.p95")),
        Text(f"{met}/{of}" if of else "–", style="red" if met < of else ""),
        Text(short_id(row.run_id), style="dim"),
        Text(harmless_line(f"{row.series_title}{state}"), style="yellow" if state else ""),
    ]


def _of_pairs(runs: Sequence[Row]) -> str:
    """Return the result of the deciding figure: `test_ab: B ÷ A ×0.69 (0.68–0.70, 8 pairs) generation_time.p50`."""
    from pytest_comfyload.metrics.comparable import stored_gate
    from pytest_comfyload.metrics.paired import paired_ratio
    from pytest_comfyload.metrics.units import counted

    ordered = sorted(runs, key=lambda row: row.time)
    title = runs[0].test.removesuffix(", A").removesuffix(", B")
    gate = stored_gate(runs[0].gate)
    a, b = ([row.figures.get(gate.name, 0.0) for row in ordered if row.test.endswith(f", {side}")] for side in "AB")
    pairs = counted(min(len(a), len(b)), "pair")
    if bad := next((row.state for row in ordered if row.state != "valid"), None):
        return f"{title}: B against A, {pairs}, a run of it {bad.upper()}"
    try:
        found = paired_ratio(a, b, higher_is_better=gate.scale.higher_is_better)
    except UsageError:
        return f"{title}: B against A, {pairs}"
    return f"{title}: B ÷ A ×{found.value:.3g} ({found.lower:.3g}–{found.upper:.3g}, {pairs}) {gate.title}"


def _seconds(row: Row, figure: str) -> str:
    from pytest_comfyload.metrics.units import format_value

    value = row.figures.get(figure)
    return "–" if value is None else format_value(value, "s")


def prune(
    keep: Annotated[int | None, typer.Option(min=0, help="Keep the newest N of each test and environment.")] = None,
    older_than: Annotated[str | None, typer.Option(metavar="AGE", help="Delete only what is older: 90d, 12h.")] = None,
    named: Annotated[bool, typer.Option("--named", help="Also those with a label or of a tagged commit.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be deleted, and delete nothing.")
    ] = False,
    store: StoreOption = None,
) -> None:
    """Delete old runs; with both --keep and --older-than, the runs that both select."""
    from pytest_comfyload.history.store import superfluous

    if keep is None and older_than is None:
        raise UsageError("prune: give --keep N, --older-than 90d, or both")
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
    """Return an age in seconds. Raises: UsageError."""
    from pytest_comfyload.metrics.units import parse_duration

    days = text.removesuffix("d")
    if days != text and days.isdecimal():
        return int(days) * _DAY
    return parse_duration(text, "--older-than")
