"""Options shared by commands: the store, which defaults to that of the repository, filters of runs, and servers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from pytest_comfyload.cli.output import echo
from pytest_comfyload.errors import UsageError
from pytest_comfyload.history.location import STORE, has_store, shown_from, store_at, unused_stores

if TYPE_CHECKING:
    from pytest_comfyload.client.address import ServerAddress
    from pytest_comfyload.history.index import Row
    from pytest_comfyload.history.store import Store

__all__ = [
    "Branch",
    "HeaderFiles",
    "Label",
    "StoreOption",
    "Test",
    "address_groups",
    "addresses",
    "chosen",
    "look_period",
    "only",
    "open_store",
    "reading",
    "warn_of_skipped",
]

T = TypeVar("T")

StoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="PATH-or-URL", help="Default: the store of this repository, as pytest finds it."),
]
Test = Annotated[
    str | None,
    typer.Option("--scenario", metavar="TEXT", help="Only runs whose test or workflow has this in its name."),
]
Branch = Annotated[str | None, typer.Option("--branch", metavar="NAME", help="Only runs of this branch.")]
HeaderFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--comfyui-header-file",
        metavar="[URL=]FILE",
        help="File of `Name: value` lines sent to every server, or to the server URL only; repeatable. "
        "COMFYUI_HEADERS holds such lines, too.",
    ),
]
Label = Annotated[str | None, typer.Option("--label", metavar="NAME", help="Only runs with this label.")]


def open_store(where: str | None) -> Store:
    """Open a store to read; `where` None: that of the repository. Raises: UsageError if it does not exist."""
    from pytest_comfyload.history.store import Store
    from pytest_comfyload.user_paths import user_path

    if where is None:
        where = _found_store()
    elif "://" not in where and not user_path(where).is_dir():
        raise UsageError(f"no store in {where}: there is no such folder")
    return Store.open(where)


def _found_store() -> str:
    """Return the store of the repository, or else one that an older version left between this folder and its top.

    Prints its location unless it is in the current folder. Raises: UsageError if there is none.
    """
    here = Path.cwd()
    found = store_at(here)
    if found == "none":
        raise UsageError("comfyload_store = none in pytest's configuration: no runs are kept; give --store")
    others = [str(other) for other in unused_stores(here, found)]
    if "://" not in found and not has_store(Path(found)):
        if not others:
            raise UsageError(f"no runs are kept yet: {found} has none; run some load tests first, or give --store")
        found, *others = others
    if (shown := shown_from(found, here)) != STORE:
        echo(f"comfyload: the store is {shown}", err=True)
    for other in others:
        echo(f"comfyload: not read: {other}; `comfyload import {other}` adds its runs to the store", err=True)
    return found


def warn_of_skipped(store: Store, *, leave: bool = False) -> None:
    """Report each damaged file that was skipped, and move it to the store's quarantine unless `leave`."""
    for line in store.skipped if leave else store.set_aside():
        echo(f"comfyload: skipped: {line}", err=True)


def reading(store: Store, work: Callable[[], T]) -> T:
    """Return the result of `work`, which reads a store, without its damaged files; report each of those."""
    done = store.without_damaged(work)
    warn_of_skipped(store)
    return done


def chosen(store: Store, test: str | None, branch: str | None, label: str | None) -> list[Row]:
    """Return the runs that match the filters, the newest first; print a warning for each unreadable file."""
    rows = store.runs()
    warn_of_skipped(store)
    return [
        row
        for row in rows
        if (test is None or test in row.test or test in row.workflow)
        and (branch is None or row.branch == branch)
        and (label is None or row.label == label)
    ]


def look_period(interval: str) -> float:
    """Return the value of --interval in seconds. Raises: UsageError."""
    from pytest_comfyload.metrics.units import parse_duration

    period = parse_duration(interval, "--interval")
    if not 0.1 <= period <= 60:
        raise UsageError(
            f"--interval {interval}: give 0.1s to 60s; a server drops prompts from its history between rarer polls"
        )
    return period


def addresses(urls: Sequence[str], header_files: Sequence[str]) -> tuple[ServerAddress, ...]:
    """Return each server once, with the headers of the environment and of the files. Raises: UsageError."""
    return address_groups(urls, header_files=header_files)[0]


def address_groups(*groups: Sequence[str], header_files: Sequence[str]) -> tuple[tuple[ServerAddress, ...], ...]:
    """Return the servers of each group of URLs; a header file may name one of any group. Raises: UsageError."""
    from pytest_comfyload.client.address import server_addresses

    # As pytest reads COMFYUI_URL: commas separate servers, too.
    named = [[url for text in texts for url in text.replace(",", " ").split()] for texts in groups]
    return server_addresses(*named, header_files=header_files, header_lines=os.environ.get("COMFYUI_HEADERS", ""))


def only(servers: Sequence[ServerAddress]) -> ServerAddress:
    """Return the server of a command that takes one. Raises: UsageError."""
    if len(servers) != 1:
        names = ", ".join(server.url for server in servers)
        raise UsageError(f"{len(servers)} servers are named, this command takes one: {names}")
    return servers[0]
