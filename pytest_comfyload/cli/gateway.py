"""`comfyload gateway`: a ComfyUI-compatible front end to several servers, with a queue in Redis."""

from __future__ import annotations

from typing import Annotated

import typer

from pytest_comfyload.cli.options import HeaderFiles, addresses
from pytest_comfyload.errors import UsageError

__all__ = ["gateway"]


def gateway(
    worker: Annotated[list[str], typer.Option("--worker", metavar="URL", help="A ComfyUI server; repeatable.")],
    redis: Annotated[
        str, typer.Option(envvar="COMFYLOAD_REDIS", metavar="URL", help="redis://[:password@]host:6379/0")
    ],
    header_files: HeaderFiles = None,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 for all of the network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen; 0 for any free one.")] = 8200,
    max_waiting: Annotated[int, typer.Option(min=1, help="Prompts that may wait; one more is answered 429.")] = 1000,
    max_waiting_mb: Annotated[int, typer.Option(min=1, help="MiB of prompts that may wait.")] = 256,
    rate: Annotated[
        str | None, typer.Option(metavar="60/min", help="Prompts that a user may send; default: any number.")
    ] = None,
    burst: Annotated[int, typer.Option(min=0, help="Prompts that a user may send beyond --rate.")] = 5,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(metavar="CIDR", help="From there X-User, X-Priority and X-Forwarded-For are believed."),
    ] = None,
    stall: Annotated[str, typer.Option(help="Give a prompt up at its worker after so long without an event.")] = "10m",
    keep: Annotated[str, typer.Option(help="Retention of histories, events and file owners.")] = "1h",
    shared_input: Annotated[
        bool, typer.Option("--shared-input", help="The workers share their input folder: one gets an upload.")
    ] = False,
) -> None:
    """Serve as one ComfyUI for several servers: prompts wait in Redis, and a free server gets the next one.

    Turns are fair by the server time that each user has had. Several gateways can share one Redis.
    """
    from pytest_comfyload.metrics.units import parse_duration
    from pytest_comfyload.redaction import hide_url
    from pytest_comfyload.scenario.pacing import parse_rate

    hide_url(redis)
    try:
        from pytest_comfyload.gateway.gateway_server import serve_gateway
        from pytest_comfyload.gateway.gateway_settings import GatewaySettings, parse_networks
    except ModuleNotFoundError as error:
        raise UsageError(f"gateway needs {error.name}: pip install 'pytest-comfyload[gateway]'") from None
    serve_gateway(
        GatewaySettings(
            redis=redis,
            workers=addresses(worker, header_files or ()),
            host=host,
            port=port,
            max_waiting=max_waiting,
            max_bytes=max_waiting_mb * 2**20,
            rate=None if rate is None else parse_rate(rate, "--rate"),
            burst=burst,
            proxies=parse_networks(trusted_proxy or ()),
            stall=parse_duration(stall, "--stall"),
            keep=parse_duration(keep, "--keep"),
            shared_input=shared_input,
        )
    )
