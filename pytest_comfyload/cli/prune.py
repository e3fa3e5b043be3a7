"""`comfyload prune`: old runs leave the store; those that somebody has named stay, unless they are asked for."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from pytest_comfyload.cli.output import echo
from pytest_comfyload.cli.stores import StoreOption, chosen, open_store
from pytest_comfyload.errors import UsageError

__all__ = ["prune"]


def prune(
    keep: Annotated[int | None, typer.Option(min=0, help="Keep the newest N of each test and environment.")] = None,
    older_than: Annotated[str | None, typer.Option(help="Delete only what is older: 90d, 12h.")] = None,
    named: Annotated[bool, typer.Option("--named", help="Also those with a label or of a tagged commit.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted, and delete nothing.")] = False,
    store: StoreOption = None,
) -> None:
    """Delete old runs; with both --keep and --older-than, those that both give up."""
    from pytest_comfyload.history.retention import superfluous

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
