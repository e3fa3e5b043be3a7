"""`comfyload report`: the store as pages for people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pytest_comfyload.cli.output import echo
from pytest_comfyload.cli.stores import Branch, StoreOption, open_store, reading, warn_of_skipped

__all__ = ["report"]


def report(
    store: StoreOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FOLDER", help="Where to write. Default: .comfyload/report.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="One file instead: the trend and the newest commit.")
    ] = None,
    branch: Branch = None,
    limit: Annotated[int, typer.Option(min=1, help="Only so many commits, the newest.")] = 1000,
    pages: Annotated[int, typer.Option(min=0, help="Write pages of so many commits, the newest.")] = 50,
) -> None:
    """Write an HTML report: verdicts, trends over commits, a page for each commit, two runs compared."""
    from pytest_comfyload.errors import UsageError
    from pytest_comfyload.report.html.content import Content
    from pytest_comfyload.report.html.page import require_libraries
    from pytest_comfyload.report.html.single import write_single
    from pytest_comfyload.report.html.site import write_site

    require_libraries()
    opened = open_store(store)
    folder = output or Path(".comfyload") / "report"

    def write() -> Path:
        content = Content(opened, Path.cwd(), branch=branch, limit=limit, cache=None if html else folder)
        warn_of_skipped(opened)
        return write_single(content, html) if html else write_site(content, folder, most=pages)

    try:
        written = reading(opened, write)
    except OSError as error:
        raise UsageError(f"the report cannot be written: {error}") from None
    echo(f"written: {written}")
