"""Puts the parts of one simulated server together and keeps it running until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator

from aiohttp import web

from pytest_comfyload.simulator.clock import VirtualClock
from pytest_comfyload.simulator.events import Hub
from pytest_comfyload.simulator.execution import Executor
from pytest_comfyload.simulator.history import History
from pytest_comfyload.simulator.machine import Machine
from pytest_comfyload.simulator.queue import PromptQueue
from pytest_comfyload.simulator.routes import MAX_UPLOAD_BYTES, add_routes
from pytest_comfyload.simulator.settings import Settings
from pytest_comfyload.simulator.state import SIMULATOR, Simulator

__all__ = ["create_app", "serve"]

_PARENT_CHECK_SECONDS = 1.0


def create_app(settings: Settings) -> web.Application:
    """A whole server as an aiohttp application; its executor runs as long as the application does."""
    hub = Hub()
    clock = VirtualClock(settings.time_scale)
    machine = Machine(settings)
    history = History()
    queue = PromptQueue(lambda: hub.send("status", {"status": {"exec_info": {"queue_remaining": queue.remaining}}}))
    executor = Executor(machine, clock, queue, history, hub, previews=settings.preview_method != "none")
    app = web.Application(client_max_size=MAX_UPLOAD_BYTES)
    app[SIMULATOR] = Simulator(settings, clock, machine, queue, history, hub, executor)
    add_routes(app)
    app.cleanup_ctx.append(_background)
    app.on_shutdown.append(_close_sockets)
    return app


async def _background(app: web.Application) -> AsyncIterator[None]:
    simulator = app[SIMULATOR]
    tasks = [asyncio.create_task(simulator.executor.work()), asyncio.create_task(simulator.hub.publish())]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def serve(settings: Settings, host: str = "127.0.0.1", port: int = 8188, exit_with_parent: bool = False) -> None:
    """Serve until SIGINT or SIGTERM; port 0 takes a free one, which the one line printed names.

    With `exit_with_parent`, also stop when stdin ends or the parent process is gone.
    """
    asyncio.run(_serve(settings, host, port, exit_with_parent))


async def _serve(settings: Settings, host: str, port: int, exit_with_parent: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows has no signal handlers on the loop
            loop.add_signal_handler(name, stop.set)
    runner = web.AppRunner(create_app(settings), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        real_port = runner.addresses[0][1]
        print(f"comfyload simulator listening on http://{host}:{real_port}", flush=True)
        if exit_with_parent:
            threading.Thread(target=_wait_for_end_of_stdin, args=(loop, stop), daemon=True).start()
            await _stopped_or_orphaned(stop)
        else:
            await stop.wait()
    finally:
        await runner.cleanup()


async def _close_sockets(app: web.Application) -> None:
    await app[SIMULATOR].hub.close()


async def _stopped_or_orphaned(stop: asyncio.Event) -> None:
    parent = os.getppid()
    while not stop.is_set() and os.getppid() == parent:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _PARENT_CHECK_SECONDS)


def _wait_for_end_of_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    with contextlib.suppress(OSError):
        while os.read(sys.stdin.fileno(), 4096):
            pass
    with contextlib.suppress(RuntimeError):  # the loop is closed already
        loop.call_soon_threadsafe(stop.set)
