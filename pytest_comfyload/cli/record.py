"""`comfyload record`: record the arrivals of prompts at running servers as a trace for loads and plans."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from pytest_comfyload.cli.monitor import Interval, Urls
from pytest_comfyload.cli.options import HeaderFiles, addresses, look_period
from pytest_comfyload.cli.output import echo
from pytest_comfyload.errors import UsageError

if TYPE_CHECKING:
    from pytest_comfyload.client.address import ServerAddress

__all__ = ["record"]


def record(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Trace file to write; it must not exist.")
    ],
    url: Urls = None,
    header_files: HeaderFiles = None,
    length: Annotated[str, typer.Option("--for", metavar="TIME", help="Recording time, such as 30m, 8h, 7d.")] = "7d",
    interval: Interval = "1s",
) -> None:
    """Record when prompts reach running servers, with a hash of each workflow; no texts, inputs or users.

    Ends after the given time, or on Ctrl-C; what was recorded until then is a complete trace.
    """
    from pytest_comfyload.metrics.arrival_trace import LONGEST
    from pytest_comfyload.metrics.units import counted, parse_duration

    servers, period = addresses(url or (), header_files or ()), look_period(interval)
    if not servers:
        raise UsageError("no server: name one with --comfyui-url or COMFYUI_URL")
    seconds = parse_duration(length, "--for")
    if not 1 <= seconds <= LONGEST:
        raise UsageError(f"--for {length}: give 1s to {LONGEST / 86400:.0f}d")
    with _new_file(output) as file:
        count = asyncio.run(_record(servers, file, seconds, period))
    echo(f"{output}: {counted(count, 'arrival')}")


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[TextIO]:
    """Create a file, and remove it again if nothing was written. Raises: UsageError if it already exists."""
    try:
        file = path.open("x", encoding="utf-8")
    except FileExistsError:
        raise UsageError(f"{path} exists already; give the name of a new file") from None
    with file:
        try:
            yield file
        finally:
            if not file.tell():
                path.unlink()


async def _record(servers: Sequence[ServerAddress], file: TextIO, seconds: float, period: float) -> int:
    from pytest_comfyload.monitor.recorder import record as record_arrivals
    from pytest_comfyload.run.background import set_on_signals

    stopped = asyncio.Event()
    set_on_signals(stopped)
    return await record_arrivals(servers, file, seconds, stopped, period, _say)


def _say(line: str) -> None:
    echo(f"comfyload: {line}", err=True)
