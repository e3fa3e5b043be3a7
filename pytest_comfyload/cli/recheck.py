"""`comfyload recheck`: judge stored runs again by the current tests, as at the end of their loads."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pytest_comfyload.cli.options import StoreOption, chosen, open_store, reading
from pytest_comfyload.errors import UsageError

if TYPE_CHECKING:
    from pytest_comfyload.history.index import Row
    from pytest_comfyload.history.store import Store

__all__ = ["PASSED_ON", "recheck"]

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def recheck(
    context: typer.Context,
    ref: Annotated[
        str, typer.Argument(metavar="REF", help="The runs: a run id, commit, branch, label, @DATE, latest or latest~3.")
    ],
    tests: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEST", help="Tests to run, as pytest takes them (default: the tests of these runs)."),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Judge stored runs by the tests as they are now, without a load and without a server.

    Further options are pytest's, and so is the exit status.
    """
    from pytest_comfyload.history.git import Git
    from pytest_comfyload.history.refs import select

    opened, git = open_store(store), Git(Path.cwd())

    def find() -> list[str]:
        named = select(ref, chosen(opened, None, None, None), git)
        return tests or _tests(opened, named)

    arguments = [f"--comfyload-recheck={ref}", f"--comfyload-store={opened}", *reading(opened, find)]
    raise typer.Exit(subprocess.call([sys.executable, "-m", "pytest", *arguments, *context.args]))


def _tests(store: Store, rows: Sequence[Row]) -> list[str]:
    """Return the ids of the tests of these runs. Raises: UsageError if none is found."""
    found = dict.fromkeys(test for row in rows for test in _tests_of(store, row))
    if not found:
        titles = ", ".join(dict.fromkeys(row.test for row in rows))
        raise UsageError(f"no test file of {titles} is here or in a folder above; name it: comfyload recheck REF TEST")
    return list(found)


def _tests_of(store: Store, row: Row) -> Iterator[str]:
    """Yield the tests of a run: the one that it is named after, or if there is none, those that checked it."""
    title = _found(re.sub(r", load \d+$", "", row.test))
    checks = [title] if title else [_found(test.nodeid) for test in store.load(row).checks]
    yield from filter(None, checks)


def _found(test: str) -> str | None:
    """Return a test's id with the path of its file, searched for here and in parent folders; None if not found."""
    path, colons, name = test.partition("::")
    files = (folder / path for folder in (Path.cwd(), *Path.cwd().parents) if path.endswith(".py"))
    return next((f"{file}{colons}{name}" for file in files if file.is_file()), None)
