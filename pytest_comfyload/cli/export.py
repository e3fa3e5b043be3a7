"""`comfyload export`, `import` and `report`: runs to other programs, from other stores, and as HTML pages."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pytest_comfyload.cli.options import Branch, Label, StoreOption, Test, chosen, open_store, reading, warn_of_skipped
from pytest_comfyload.cli.output import echo, echo_json
from pytest_comfyload.errors import UsageError
from pytest_comfyload.history.location import STORE, home_of, project_of, shown_from, store_at
from pytest_comfyload.metrics.units import counted
from pytest_comfyload.text import harmless_json

if TYPE_CHECKING:
    from pytest_comfyload.history.record import Record
    from pytest_comfyload.history.store import Store
    from pytest_comfyload.report.html.content import Content

__all__ = ["export", "import_runs", "report"]


class Form(StrEnum):
    JSON = "json"
    CSV = "csv"
    BENCHMARK = "pytest-benchmark"


def export(
    ref: Annotated[
        str | None, typer.Argument(metavar="REF", help="Only these runs: a commit, branch, label, latest …")
    ] = None,
    form: Annotated[Form, typer.Option("--format", help="Output format.")] = Form.JSON,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Output file (default: standard output).")
    ] = None,
    outcomes: Annotated[bool, typer.Option("--outcomes", help="Include every prompt (JSON only).")] = False,
    store: StoreOption = None,
    scenario: Test = None,
    branch: Branch = None,
    label: Label = None,
) -> None:
    """Export runs as JSON, CSV or a file of pytest-benchmark."""
    from pytest_comfyload.history import exports
    from pytest_comfyload.history import pytest_benchmark as benchmark
    from pytest_comfyload.history.git import Git
    from pytest_comfyload.history.refs import select

    opened = open_store(store)
    rows = chosen(opened, scenario, branch, label)
    if ref is not None:
        rows = select(ref, rows, Git(Path.cwd()))
    if form is Form.CSV:
        text = exports.as_csv(rows)
    elif form is Form.JSON:
        text = exports.as_json(opened.records(rows), outcomes=outcomes)
    else:
        text = benchmark.as_benchmark(list(opened.records(rows)))
    warn_of_skipped(opened)
    text = text if form is Form.CSV else harmless_json(text)
    if output is None:
        sys.stdout.write(text)
    else:
        output.write_text(text, encoding="utf-8")


def import_runs(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A JSON file of `comfyload export` or pytest-benchmark, or a store.")
    ],
    store: StoreOption = None,
) -> None:
    """Import runs into the store; runs that are stored already are left as they are."""
    from pytest_comfyload.history.store import Store

    into = Store.open(store or store_at(Path.cwd()))
    if "://" in source or Path(source).is_dir():
        other = open_store(source)
        names = {into.add(record) for record in other.records(other.runs())}
        # The damaged files of another store are left in place.
        warn_of_skipped(other, leave=True)
    else:
        names = {into.add(record) for record in _read(Path(source))}
    echo(f"{counted(len(names), 'run', 'is', 'are')} in {shown_from(str(into), Path.cwd())}")


def _read(path: Path) -> list[Record]:
    """Return the runs in a file, checked as if read from a store. Raises: UsageError."""
    from pytest_comfyload.errors import StoreError
    from pytest_comfyload.history.exports import from_json, parsed
    from pytest_comfyload.history.files import read_untrusted
    from pytest_comfyload.history.limits import MOST_IMPORTED
    from pytest_comfyload.history.pytest_benchmark import from_benchmark, is_benchmark

    try:
        content = parsed(read_untrusted(path, MOST_IMPORTED), str(path))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file or folder") from None
    except StoreError as error:
        raise UsageError(str(error)) from None
    return from_benchmark(content, str(path)) if is_benchmark(content) else from_json(content, str(path))


_PORT = 8190


def report(
    store: StoreOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FOLDER", help="Output folder (default: report in the store).")
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write one file instead: the trend and the newest commit."),
    ] = None,
    branch: Branch = None,
    limit: Annotated[int, typer.Option(min=1, help="Include only this many commits, the newest.")] = 1000,
    pages: Annotated[int, typer.Option(min=0, help="Write pages of this many commits, the newest.")] = 50,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve it on 127.0.0.1 until Ctrl-C; pages follow the runs that come in.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of --serve; 0: any free port.")] = _PORT,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: the headline, and what was written.")] = False,
) -> None:
    """Write an HTML report: verdicts, trends over commits, a page for each commit, two runs compared."""
    from pytest_comfyload.report.html.content import Content
    from pytest_comfyload.report.html.page import require_libraries
    from pytest_comfyload.report.html.write import write_single, write_site

    if serve and (html or as_json):
        raise UsageError(f"--serve serves a folder of pages; leave out {'--html' if html else '--json'}")
    require_libraries()
    opened = open_store(store)
    home = home_of(project_of(Path.cwd(), Path.cwd()))
    folder = output or Path(shown_from(str(home), Path.cwd())) / STORE / "report"

    def write() -> tuple[Content, Path]:
        content = Content(opened, Path.cwd(), branch=branch, limit=limit, cache=None if html else folder)
        warn_of_skipped(opened)
        return content, write_single(content, html) if html else write_site(content, folder, most=pages)

    if serve:
        from pytest_comfyload.report.html.serve import RunningLoads

        folder.mkdir(parents=True, exist_ok=True)
        _serve(folder, lambda: reading(opened, write), opened, RunningLoads(_project(opened, home)), port, show=show)
        return
    try:
        content, written = reading(opened, write)
    except OSError as error:
        raise UsageError(f"the report cannot be written: {error}") from None
    if as_json:
        echo_json(_as_json(content, written, folder if html is None else None))
    else:
        echo(f"written: {written}")
    if show:
        _show_page(written.absolute().as_uri())


def _as_json(content: Content, written: Path, folder: Path | None) -> dict[str, Any]:
    """Return the output of --json. `folder` None: the report is one file, without pages of commits."""
    from dataclasses import asdict

    from pytest_comfyload.report.html.write import commit_path

    paths = {commit: folder / commit_path(commit) for commit in content.commits} if folder else {}
    return {
        "schema": "comfyload.report/1",
        "path": str(written),
        "headline": asdict(content.overview.headline),
        "newest_commit": content.newest,
        "commits": {commit: str(path) for commit, path in paths.items() if path.exists()},
        "runs": len(content.rows),
        "simulated": content.simulated or "none",
    }


def _serve(
    folder: Path,
    write: Callable[[], object],
    store: Store,
    running: Callable[[], Sequence[str]],
    port: int,
    *,
    show: bool,
) -> None:
    from pytest_comfyload.report.html.serve import ReportServer

    server = ReportServer(folder, write, store.files, running, port)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    echo(f"serving {server.url} until Ctrl-C")
    if show:
        _show_page(server.url)
    try:
        server.run(lambda line: echo(f"comfyload: {line}", err=True))
    except KeyboardInterrupt:
        echo("ended")


def _project(store: Store, home: Path) -> Path:
    """Return the project whose current loads are shown: that of the store if it is in a project, else `home`."""
    where = Path(str(store))
    return where.absolute().parent if where.name == STORE else home


def _show_page(url: str) -> None:
    """Open a URL in a browser; print it if there is no screen."""
    import webbrowser

    has_screen = sys.platform in ("win32", "darwin") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    if not (has_screen and webbrowser.open(url)):
        echo(f"open in a browser: {url}")
