"""Assembly of a gateway from its parts, and its HTTP server."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client.exposition import choose_encoder

from pytest_comfyload.errors import ServerError, UsageError
from pytest_comfyload.gateway.catalog import NodeCatalog
from pytest_comfyload.gateway.client_sockets import ClientSockets
from pytest_comfyload.gateway.front import GATEWAY, PROMPT_ROUTES, Gateway, unavailable
from pytest_comfyload.gateway.gateway_metrics import GatewayMetrics
from pytest_comfyload.gateway.gateway_settings import GatewaySettings
from pytest_comfyload.gateway.prompt_store import PromptStore
from pytest_comfyload.gateway.redis_calls import StoreUnavailable
from pytest_comfyload.gateway.uploads import MAX_UPLOAD, UPLOAD_ROUTES, copy_inputs
from pytest_comfyload.gateway.validation import refusal
from pytest_comfyload.gateway.worker_driver import WorkerDriver
from pytest_comfyload.gateway.worker_link import WorkerLink
from pytest_comfyload.gateway.worker_routes import WORKER_ROUTES
from pytest_comfyload.run.background import set_on_signals

__all__ = ["gateway_serving", "serve_gateway"]

# Seconds after the end of a lease at which any gateway requeues its prompt: no gateway drives its worker by then.
_ORPHANED = 60.0
_ORPHAN_PERIOD = 10.0
# Seconds to wait for the workers at startup.
_START = 3.0


def serve_gateway(settings: GatewaySettings) -> None:
    """Serve a gateway until SIGINT or SIGTERM. Raises: UsageError."""
    asyncio.run(_serve(settings))


async def _serve(settings: GatewaySettings) -> None:
    stop = asyncio.Event()
    set_on_signals(stop)
    async with gateway_serving(settings) as url:
        print(f"comfyload gateway listening on {url}", flush=True)
        await stop.wait()


@contextlib.asynccontextmanager
async def gateway_serving(settings: GatewaySettings) -> AsyncIterator[str]:
    """Serve a gateway, and yield its URL. Raises: UsageError."""
    interval = 0.0 if settings.rate is None else 1 / settings.rate
    store = PromptStore(
        settings.redis, settings.keep, (settings.max_waiting, settings.max_bytes, interval, settings.burst)
    )
    gateway = Gateway(settings, store, NodeCatalog(), GatewayMetrics())
    try:
        await _find_workers(gateway)
        async with _working(gateway), _listening(_application(gateway), settings) as url:
            yield url
    finally:
        await _leave(gateway)


async def _find_workers(gateway: Gateway) -> None:
    """Create the driver of each worker. Raises: UsageError if Redis cannot be used."""
    me = uuid.uuid4().hex
    for address in gateway.settings.workers:
        try:
            name = await gateway.store.worker_name(address.url)
        except StoreUnavailable as error:
            raise UsageError(f"--redis: {error}") from None
        link = WorkerLink(name, address)
        gateway.drivers[name] = WorkerDriver(
            link, gateway.store, gateway.settings, gateway.catalog, gateway.metrics, me, partial(copy_inputs, gateway)
        )


@contextlib.asynccontextmanager
async def _working(gateway: Gateway) -> AsyncIterator[None]:
    """Drive the workers and listen to Redis."""
    drivers = gateway.drivers.values()

    def wake() -> None:
        for each in drivers:
            each.news.set()

    gateway.sockets = sockets = ClientSockets(gateway.store, gateway.metrics, wake)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_START):
            await asyncio.gather(*(each.learn(node_classes=True) for each in drivers), return_exceptions=True)
    works: list[Callable[[], Coroutine[Any, Any, None]]] = [sockets.listen, sockets.tell_status]
    works += [work for each in drivers for work in (each.run, each.watch)]
    tasks = [asyncio.create_task(work()) for work in works]
    tasks.append(asyncio.create_task(_give_back_orphans(gateway)))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _give_back_orphans(gateway: Gateway) -> None:
    """Return prompts of workers that no gateway drives any longer to the queue, until cancelled."""
    while True:
        await asyncio.sleep(_ORPHAN_PERIOD)
        with contextlib.suppress(StoreUnavailable):
            for id, token in await gateway.store.orphans(_ORPHANED):
                await gateway.store.give_back(id, token, suspicion=True)


async def _leave(gateway: Gateway) -> None:
    for driver in gateway.drivers.values():
        with contextlib.suppress(StoreUnavailable):
            await driver.release()
        await driver.link.aclose()
    await gateway.store.aclose()


# --- HTTP ------------------------------------------------------------------------------------------------------------


def _application(gateway: Gateway) -> web.Application:
    application = web.Application(client_max_size=MAX_UPLOAD + 2**20, middlewares=[_plain_errors])
    application[GATEWAY] = gateway
    routes = [*PROMPT_ROUTES, *UPLOAD_ROUTES, *WORKER_ROUTES]
    application.add_routes(routes)
    application.add_routes(
        [web.RouteDef(each.method, f"/api{each.path}", each.handler, each.kwargs) for each in routes]
    )
    application.router.add_get("/metrics", _metrics)
    application.router.add_get("/healthz", _healthz)
    application.on_shutdown.append(_close_sockets)
    return application


@web.middleware
async def _plain_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer 503 if Redis fails, and 502 if a worker fails."""
    try:
        return await handler(request)
    except StoreUnavailable:
        raise unavailable("The queue does not answer") from None
    except ServerError:
        error = refusal("bad_gateway", "A worker does not answer")
        return web.json_response({"error": error, "node_errors": {}}, status=502)


async def _metrics(request: web.Request) -> web.Response:
    gateway = request.app[GATEWAY]
    with contextlib.suppress(StoreUnavailable):
        gateway.metrics.show_totals(await gateway.store.totals())
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return web.Response(body=encode(gateway.metrics.registry), headers={"Content-Type": content_type})


async def _healthz(request: web.Request) -> web.Response:
    gateway = request.app[GATEWAY]
    try:
        waiting: int | None = await gateway.store.remaining()
    except StoreUnavailable:
        waiting = None
    up = [each.link.name for each in gateway.up]
    healthy = waiting is not None and bool(up)
    told = {"ok": healthy, "redis": waiting is not None, "workers": up, "remaining": waiting}
    return web.json_response(told, status=200 if healthy else 503)


async def _close_sockets(application: web.Application) -> None:
    if (sockets := application[GATEWAY].sockets) is not None:
        await sockets.close()


@contextlib.asynccontextmanager
async def _listening(application: web.Application, settings: GatewaySettings) -> AsyncIterator[str]:
    """Listen for requests, and yield the URL. Raises: UsageError."""
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, settings.host, settings.port, backlog=1024).start()
        except OSError as error:
            where = f"{settings.host}:{settings.port}"
            raise UsageError(f"cannot listen on {where} ({error.strerror or error}); give --host and --port") from None
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
