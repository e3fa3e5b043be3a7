"""`comfyload simulate` and `comfyload record-nodes`: a simulated server, and the node classes of a real one."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

from pytest_comfyload.cli.stores import open_store, warn_of_skipped
from pytest_comfyload.errors import NotComfyUI

__all__ = ["record_nodes", "simulate"]


def simulate(context: typer.Context) -> None:
    """Serve as a ComfyUI with a simulated GPU would (`comfyload simulate --help` lists the options)."""
    from pytest_comfyload.simulator.__main__ import main as run_simulator

    raise typer.Exit(run_simulator(context.args, program="comfyload simulate", calibrate=_node_times))


def _node_times(ref: str, store: str | None) -> dict[str, float]:
    """Return the seconds by node class of the runs that `ref` names."""
    from pytest_comfyload.history.calibration import node_times_of
    from pytest_comfyload.history.git import Git

    opened = open_store(store)
    rows = opened.runs()
    warn_of_skipped(opened)
    return node_times_of(opened, rows, ref, Git(Path.cwd()))


def record_nodes(
    url: Annotated[str, typer.Argument(metavar="URL", help="A ComfyUI server: http://host:port.")],
) -> None:
    """Print what a server says of its node classes, for `comfyload simulate --object-info FILE`."""
    from pytest_comfyload.client.address import ServerAddress
    from pytest_comfyload.run.target import unsocketed

    async def asked() -> object:
        async with unsocketed(ServerAddress.parse(url)) as client:
            return await client.object_info()

    described = asyncio.run(asked())
    if not described:
        raise NotComfyUI(f"{url}/object_info names no node class")
    typer.echo(json.dumps(described, indent=1))
