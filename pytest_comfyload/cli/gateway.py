"""`comfyload gateway`: a ComfyUI-compatible front end for several servers, with a queue in Redis."""

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
    host: Annotated[
        str, typer.Option(metavar="HOST", help="Address to listen on; 0.0.0.0: all interfaces.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free port.")] = 8200,
    max_waiting: Annotated[
        int, typer.Option(min=1, help="Maximum number of waiting prompts; more are answered with 429.")
    ] = 1000,
    max_waiting_mb: Annotated[int, typer.Option(min=1, help="Maximum size of the waiting prompts, in MiB.")] = 256,
    rate: Annotated[
        str | None, typer.Option(metavar="60/min", help="Prompts that a user may send; default: any number.")
    ] = None,
    burst: Annotated[int, typer.Option(min=0, help="Prompts that a user may send at once beyond --rate.")] = 5,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CIDR", help="Proxy whose X-User, X-Priority and X-Forwarded-For are trusted; repeatable."
        ),
    ] = None,
    stall: Annotated[
        str, typer.Option(metavar="DURATION", help="Abandon a prompt at its worker after this long without an event.")
    ] = "10m",
    keep: Annotated[
        str, typer.Option(metavar="DURATION", help="Retention of histories, events and file owners.")
    ] = "1h",
    shared_input: Annotated[
        bool, typer.Option("--shared-input", help="The workers share their input folder: one gets an upload.")
    ] = False,
) -> None:
    """Serve several ComfyUI servers as one: prompts wait in Redis, and the next free server executes them.

    Users take turns, by the server time that each has used. Several gateways can share one Redis.
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
