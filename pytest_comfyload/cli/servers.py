"""`comfyload wait`, `simulate` and `record-nodes`: wait for servers, simulate and describe them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from pytest_comfyload.cli.options import HeaderFiles, addresses, only, open_store, warn_of_skipped
from pytest_comfyload.cli.output import echo, echo_json
from pytest_comfyload.errors import NotComfyUI, UsageError

if TYPE_CHECKING:
    from pytest_comfyload.simulator.settings import Calibration

__all__ = ["record_nodes", "simulate", "wait"]


def wait(
    urls: Annotated[list[str], typer.Argument(envvar="COMFYUI_URL", metavar="URL...", help="http://host:port")],
    timeout: Annotated[
        str, typer.Option(metavar="DURATION", help="Timeout for all servers together, such as 90s or 10m.")
    ] = "5m",
) -> None:
    """Wait until every server has executed a small prompt; exit with status 2 if one has not in time."""
    from pytest_comfyload.launch import wait_until_ready
    from pytest_comfyload.metrics.units import parse_duration

    begun, most = time.monotonic(), parse_duration(timeout, "--timeout")
    for url in map(_address, urls):
        wait_until_ready(url, timeout=most - (time.monotonic() - begun))
        echo(f"{url} executed a prompt after {time.monotonic() - begun:.1f} s")


def _address(url: str) -> str:
    """Return the URL of a server that is addressed directly. Raises: UsageError for any other."""
    from pytest_comfyload.client.address import ServerAddress

    address = ServerAddress.parse(url)
    parts = urlsplit(address.url)
    if parts.scheme != "http" or parts.path or address.headers or address.query:
        raise UsageError(
            f"{address.url}: wait needs the address of the server itself, not of a proxy in front of it: http://host:port"
        )
    return address.url


def simulate(context: typer.Context) -> None:
    """Serve a ComfyUI-compatible server with a simulated GPU."""
    from pytest_comfyload.simulator.__main__ import main as run_simulator

    raise typer.Exit(run_simulator(context.args, program="comfyload simulate", calibrate=_calibration))


def _calibration(ref: str, store: str | None) -> Calibration:
    """Return a calibration of the simulator by the times of the runs that `ref` names."""
    from pytest_comfyload.history.calibration import calibration_of
    from pytest_comfyload.history.git import Git

    opened = open_store(store)
    rows = opened.runs()
    warn_of_skipped(opened)
    return calibration_of(opened, rows, ref, Git(Path.cwd()))


def record_nodes(
    url: Annotated[str, typer.Argument(metavar="URL", help="A ComfyUI server: http://host:port.")],
    header_files: HeaderFiles = None,
) -> None:
    """Print the node classes of a server, for `comfyload simulate --object-info FILE`."""
    from pytest_comfyload.run.target import unsocketed

    address = only(addresses([url], header_files or ()))

    async def asked() -> object:
        async with unsocketed(address) as client:
            return await client.object_info()

    described = asyncio.run(asked())
    if not described:
        raise NotComfyUI(f"{url}/object_info names no node class")
    echo_json(described)
