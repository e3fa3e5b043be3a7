"""HTTP server for `/metrics` and `/healthz`, optionally with TLS and a password."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from pytest_comfyload.errors import UsageError
from pytest_comfyload.monitor.exposition import families
from pytest_comfyload.monitor.probe import Probe, probing
from pytest_comfyload.monitor.state_file import write_state
from pytest_comfyload.monitor.watch import ServerWatch
from pytest_comfyload.redaction import hide

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

__all__ = ["Endpoint", "listening", "serving", "tls_context"]

# Seconds between two writes of the state; a restarted monitor counts what ended since the last one from the history.
SAVE_PERIOD = 10.0
# Seconds without a poll after which a watch counts as stuck.
STUCK = 60.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Address to listen on; port 0 lets the system choose. `password`: `user:password`, None for open access."""

    host: str = "127.0.0.1"
    port: int = 9188
    tls: ssl.SSLContext | None = None
    password: str | None = None


class _Collected(Collector):
    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        return self._collect()


def tls_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """Create a server-side TLS context from PEM files. Raises: UsageError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"--tls-cert {certificate} cannot be used: {error}; give a PEM file, and --tls-key") from None
    return context


@contextlib.asynccontextmanager
async def serving(
    watches: Sequence[ServerWatch],
    endpoint: Endpoint,
    state: Path | None = None,
    probe: Probe | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> AsyncIterator[str]:
    """Watch the servers and serve their series; yield the URL. Raises: UsageError."""
    async with contextlib.AsyncExitStack() as stack:
        for watch in watches:
            await stack.enter_async_context(watch.watching())
            if probe is not None:
                await stack.enter_async_context(probing(probe, watch.address, watch.record, say))
        url = await stack.enter_async_context(listening(lambda: watches, endpoint))
        if state is not None:
            await stack.enter_async_context(_saving(state, watches, say))
        yield url


@contextlib.asynccontextmanager
async def listening(
    watches: Callable[[], Sequence[ServerWatch]],
    endpoint: Endpoint,
    more: Callable[[], Iterable[Metric]] = lambda: (),
) -> AsyncIterator[str]:
    """Serve the series of the watched servers, and those of `more`; yield the URL. Raises: UsageError."""
    application = _application(watches, more, endpoint.password)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        yield await _listen(runner, endpoint)
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, endpoint: Endpoint) -> str:
    site = web.TCPSite(runner, endpoint.host, endpoint.port, ssl_context=endpoint.tls)
    try:
        await site.start()
    except OSError as error:
        where = f"{endpoint.host}:{endpoint.port}"
        raise UsageError(f"cannot listen on {where} ({error.strerror or error}); give --host and --port") from None
    port = runner.addresses[0][1]
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"{'http' if endpoint.tls is None else 'https'}://{host}:{port}"


def _application(
    watches: Callable[[], Sequence[ServerWatch]], more: Callable[[], Iterable[Metric]], password: str | None
) -> web.Application:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(lambda: (*families(watch.record for watch in watches()), *more())))

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    async def healthz(request: web.Request) -> web.Response:
        stuck = [watch.record.server for watch in watches() if time.monotonic() - watch.looked_at > STUCK]
        return web.json_response({"ok": not stuck, "stuck": stuck}, status=503 if stuck else 200)

    application = web.Application(middlewares=[] if password is None else [_guard(password)])
    application.router.add_get("/metrics", metrics)
    application.router.add_get("/healthz", healthz)
    return application


def _guard(password: str) -> Middleware:
    """Return a middleware that requires basic authentication for everything except `/healthz`."""
    expected = f"Basic {base64.b64encode(password.encode()).decode()}"
    hide(password)

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "")
        if request.path == "/healthz" or hmac.compare_digest(given.encode(), expected.encode()):
            return await handler(request)
        return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="comfyload monitor"'})

    return guard


@contextlib.asynccontextmanager
async def _saving(path: Path, watches: Sequence[ServerWatch], say: Callable[[str], None]) -> AsyncIterator[None]:
    """Write the state periodically and on exit. A write error is reported once and stops nothing."""
    said = False

    def save() -> None:
        nonlocal said
        try:
            write_state(path, watches)
        except OSError as error:
            if not said:
                say(f"--state {path} cannot be written ({error.strerror or error}); a restart resets the counters")
            said = True

    async def repeat() -> None:
        while True:
            await asyncio.sleep(SAVE_PERIOD)
            save()

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        save()
