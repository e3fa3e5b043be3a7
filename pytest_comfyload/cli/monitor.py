"""`comfyload monitor` and `top`: watch running servers from outside, for Prometheus and in the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pytest_comfyload.cli.options import HeaderFiles, addresses, look_period
from pytest_comfyload.cli.output import echo, echo_json
from pytest_comfyload.errors import UsageError

if TYPE_CHECKING:
    from pytest_comfyload.monitor.exporter import Endpoint
    from pytest_comfyload.monitor.probe import Probe
    from pytest_comfyload.monitor.watch import ServerWatch

__all__ = ["Interval", "Urls", "monitor", "top"]

Urls = Annotated[
    list[str] | None,
    typer.Option("--comfyui-url", envvar="COMFYUI_URL", metavar="URL", help="ComfyUI server; repeatable."),
]
Gpus = Annotated[
    list[str] | None, typer.Option("--gpu", metavar="SPEC", help="GPUs of a server, as --comfyload-gpu takes them.")
]
Interval = Annotated[str, typer.Option(metavar="DURATION", help="Time between two polls of a server.")]


def monitor(
    url: Urls = None,
    header_files: HeaderFiles = None,
    gpu: Gpus = None,
    host: Annotated[
        str, typer.Option(metavar="HOST", help="Address to listen on; 0.0.0.0: all interfaces.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free port.")] = 9188,
    interval: Interval = "1s",
    state: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File that keeps the counters across restarts of the monitor.")
    ] = None,
    events: Annotated[
        bool,
        typer.Option("--events", help="Open a WebSocket to each server: accepted prompts, and deleted ones."),
    ] = False,
    logs: Annotated[
        bool,
        typer.Option(
            "--logs", help="Read each server's log every 5 s: sampling pace, model loads; an unstable source."
        ),
    ] = False,
    workflow: Annotated[
        str | None,
        typer.Option(
            "--probe", metavar="WORKFLOW", help="Workflow to send at intervals while a server is idle, and to time."
        ),
    ] = None,
    every: Annotated[str, typer.Option(metavar="DURATION", help="Time between two probes of a server.")] = "15m",
    tls_cert: Annotated[Path | None, typer.Option(metavar="PEM", help="Serve over TLS with this certificate.")] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Key of the certificate, unless it is in the same file.")
    ] = None,
    auth: Annotated[
        Path | None,
        typer.Option("--auth-file", metavar="FILE", help="A line `user:password`, which Prometheus must send."),
    ] = None,
    configuration: Annotated[
        Path | None,
        typer.Option(
            "--write-config",
            metavar="FOLDER",
            help="Write the configuration of Prometheus, its alerts and Grafana, and exit.",
        ),
    ] = None,
) -> None:
    """Serve Prometheus metrics of running servers on /metrics, and /healthz.

    Servers are polled over HTTP; only --events opens a WebSocket.
    """
    if configuration is not None:
        _write_configuration(configuration, f"{host}:{port}")
        return
    try:
        watches = _watches(url or (), header_files or (), gpu or (), interval, state, _say, events=events, logs=logs)
        endpoint = _endpoint(host, port, tls_cert, tls_key, auth)
        probe = None if workflow is None else _probe(workflow, every)
    except ModuleNotFoundError as error:
        raise UsageError(f"monitor needs {error.name}: pip install 'pytest-comfyload[monitor]'") from None
    asyncio.run(_serve(watches, endpoint, state, probe))


def _write_configuration(folder: Path, exporter: str) -> None:
    """Write the configuration, and print its paths. Raises: UsageError."""
    from pytest_comfyload.monitor.configuration import write_configuration

    for path in write_configuration(folder, exporter):
        echo(str(path))


def _watches(
    urls: Sequence[str],
    header_files: Sequence[str],
    gpus: Sequence[str],
    interval: str,
    state: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
    *,
    events: bool = False,
    logs: bool = False,
) -> list[ServerWatch]:
    """Return a watch for each server, with the counters of the state file. Raises: UsageError."""
    from pytest_comfyload.gpu.spec import parse_specs
    from pytest_comfyload.monitor.server_record import ServerRecord
    from pytest_comfyload.monitor.state_file import read_state, seen_in
    from pytest_comfyload.monitor.watch import ServerWatch, label_of

    servers = addresses(urls, header_files)
    if not servers:
        raise UsageError("no server: name one with --comfyui-url or COMFYUI_URL")
    period = look_period(interval)
    specs = parse_specs(gpus, [server.url for server in servers])
    kept = {} if state is None else read_state(state)
    watches = []
    for server in servers:
        record = ServerRecord(label_of(server.url))
        seen = None if state is None else seen_in(state, kept, record)
        watches.append(ServerWatch(server, record, specs.get(server.url), period, seen, say, events=events, logs=logs))
    return watches


def _endpoint(host: str, port: int, cert: Path | None, key: Path | None, auth: Path | None) -> Endpoint:
    """Raises: UsageError."""
    from pytest_comfyload.monitor.exporter import Endpoint, tls_context

    if key is not None and cert is None:
        raise UsageError("--tls-key needs --tls-cert")
    return Endpoint(
        host,
        port,
        None if cert is None else tls_context(cert, key),
        None if auth is None else _password(auth),
    )


def _password(path: Path) -> str:
    """Return the line `user:password` of a file. Raises: UsageError."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--auth-file {path} cannot be read ({error})") from None
    user, colon, password = text.partition(":")
    if not (user and colon and password) or "\n" in text:
        raise UsageError(f"--auth-file {path} must have one line: user:password")
    return text


def _probe(workflow: str, every: str) -> Probe:
    """Raises: UsageError."""
    from pytest_comfyload.metrics.units import parse_duration
    from pytest_comfyload.monitor.probe import Probe

    seconds = parse_duration(every, "--every")
    if seconds < 1:
        raise UsageError(f"--every {every}: give 1s or more; a probe takes the server's time")
    return Probe.of(workflow, seconds)


async def _serve(watches: Sequence[ServerWatch], endpoint: Endpoint, state: Path | None, probe: Probe | None) -> None:
    """Serve until SIGINT or SIGTERM."""
    from pytest_comfyload.monitor.exporter import serving
    from pytest_comfyload.run.background import set_on_signals

    ended = asyncio.Event()
    set_on_signals(ended)
    async with serving(watches, endpoint, state, probe, _say) as url:
        _say(f"{url}/metrics has the figures of {', '.join(watch.record.server for watch in watches)}")
        await ended.wait()


def top(
    url: Urls = None,
    header_files: HeaderFiles = None,
    gpu: Gpus = None,
    interval: Interval = "1s",
    once: Annotated[bool, typer.Option("--once", help="Print the figures once, after a second poll.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON at each poll.")] = False,
) -> None:
    """Show servers live: GPU, queue, generation time, throughput and success rate of the last five minutes."""
    watches = _watches(url or (), header_files or (), gpu or (), interval)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_show(watches, once, as_json))


async def _show(watches: Sequence[ServerWatch], once: bool, as_json: bool) -> None:
    """Poll until Ctrl-C, or just twice if `once`."""
    from rich.console import Console, Group
    from rich.live import Live

    from pytest_comfyload.monitor.top import ASCII_BLOCKS, BLOCKS, TopView

    console = Console(highlight=False)
    unicode = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    view = TopView([watch.record for watch in watches], BLOCKS if unicode else ASCII_BLOCKS)
    async with contextlib.AsyncExitStack() as stack:
        for watch in watches:
            await stack.enter_async_context(watch.watching())
        live = None
        if not once and not as_json and console.is_terminal:
            live = stack.enter_context(Live(console=console, screen=True, auto_refresh=False))
        for number in itertools.count(1):
            await asyncio.sleep(max(watch.period for watch in watches))
            view.update()
            if live is not None:
                live.update(Group(*view.screen(console.width, console.height)), refresh=True)
            elif not once or number == 2:
                echo_json(view.data(), indent=None) if as_json else console.print(Group(*view.lines(console.width)))
            if once and number == 2:
                return


def _say(line: str) -> None:
    echo(f"comfyload: {line}", err=True)
