"""`comfyload wait`: returns when servers really execute prompts, which their answers alone do not tell."""

from __future__ import annotations

import time
from typing import Annotated
from urllib.parse import urlsplit

import typer

from pytest_comfyload.cli.output import echo
from pytest_comfyload.errors import UsageError

__all__ = ["wait"]


def wait(
    urls: Annotated[list[str], typer.Argument(envvar="COMFYUI_URL", metavar="URL...", help="http://host:port")],
    timeout: Annotated[str, typer.Option(help="For all of them together: 90s, 10m.")] = "5m",
) -> None:
    """Wait until each server has executed a tiny prompt; exit status 2 where one has not in time."""
    from pytest_comfyload.launch import wait_until_ready
    from pytest_comfyload.metrics.units import parse_duration

    begun, most = time.monotonic(), parse_duration(timeout, "--timeout")
    for url in map(_address, urls):
        wait_until_ready(url, timeout=most - (time.monotonic() - begun))
        echo(f"{url} executes prompts, after {time.monotonic() - begun:.0f} s")


def _address(url: str) -> str:
    """Raises: UsageError."""
    from pytest_comfyload.client.address import ServerAddress

    address = ServerAddress.parse(url)
    parts = urlsplit(address.url)
    if parts.scheme != "http" or parts.path or address.headers or address.query:
        raise UsageError(
            f"{address.url}: wait speaks to a server itself, not to what stands before it: http://host:port"
        )
    return address.url
