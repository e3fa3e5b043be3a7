"""The store that a command works on: the one that is named, or the `.comfyload` nearest above."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pytest_comfyload.cli.output import echo
from pytest_comfyload.errors import UsageError

if TYPE_CHECKING:
    from pytest_comfyload.history.index import Row
    from pytest_comfyload.history.store import Store

__all__ = ["Branch", "Label", "StoreOption", "Test", "chosen", "open_store", "warn_of_skipped"]

StoreOption = Annotated[
    str | None, typer.Option("--store", metavar="PATH-or-URL", help="Default: .comfyload here or in a folder above.")
]
Test = Annotated[str | None, typer.Option("--scenario", help="Only runs whose test or workflow has this in its name.")]
Branch = Annotated[str | None, typer.Option("--branch", help="Only runs of this branch.")]
Label = Annotated[str | None, typer.Option("--label", help="Only runs with this label.")]


def open_store(where: str | None) -> Store:
    """Raises: UsageError where there is none."""
    from pytest_comfyload.history.store import Store

    if where is None:
        here = Path.cwd()
        near = [folder / ".comfyload" for folder in (here, *here.parents)]
        where = next((str(folder) for folder in near if folder.is_dir()), None)
        if where is None:
            raise UsageError("no .comfyload here or in a folder above; run some load tests first, or give --store")
    elif "://" not in where and not Path(where).expanduser().is_dir():
        raise UsageError(f"no store in {where}: there is no such folder")
    return Store.open(where)


def warn_of_skipped(store: Store) -> None:
    for line in store.skipped:
        echo(f"comfyload: skipped: {line}", err=True)


def chosen(store: Store, test: str | None, branch: str | None, label: str | None) -> list[Row]:
    """Newest first; a warning for each file that cannot be read."""
    rows = store.runs()
    warn_of_skipped(store)
    return [
        row
        for row in rows
        if (test is None or test in row.test or test in row.workflow)
        and (branch is None or row.branch == branch)
        and (label is None or row.label == label)
    ]
