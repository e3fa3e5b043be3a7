"""Assembly of one simulated server, which runs until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial

from aiohttp import web

from pytest_comfyload.errors import UsageError
from pytest_comfyload.simulator.connections import SIMULATOR, Simulator
from pytest_comfyload.simulator.events import Hub
from pytest_comfyload.simulator.execution import Worker
from pytest_comfyload.simulator.faults import Faults
from pytest_comfyload.simulator.faulty_network import FaultyAnswers, FaultyHub
from pytest_comfyload.simulator.faulty_worker import FaultyExecutor
from pytest_comfyload.simulator.machine import SimulatedMachine
from pytest_comfyload.simulator.queue import PromptHistory, PromptQueue
from pytest_comfyload.simulator.routes import MAX_UPLOAD_BYTES, add_routes
from pytest_comfyload.simulator.settings import SimulatorSettings
from pytest_comfyload.simulator.virtual_clock import VirtualClock
from pytest_comfyload.text import harmless

__all__ = ["create_app", "create_runner", "serve"]

_PARENT_CHECK_SECONDS = 1.0
_DOWN_SECONDS = 1.0
"""Virtual seconds during which a restarting server refuses connections."""
_HIGHEST_PORT = 65535


def create_app(settings: SimulatorSettings, before: Simulator | None = None) -> web.Application:
    """Return a whole server as an aiohttp application; its executor runs as long as the application does.

    `before` is the same server before a restart; its clock, its files and its GPU's sensors are carried over.
    """
    faults = Faults(settings.faults, settings.seed)
    clock = before.clock if before else VirtualClock(settings.time_scale)
    machine = SimulatedMachine(settings, clock, before.machine if before else None)
    hub = FaultyHub(faults, clock) if faults else Hub()
    history = PromptHistory()
    queue = PromptQueue(lambda: hub.send("status", {"status": {"exec_info": {"queue_remaining": queue.remaining}}}))
    down = asyncio.Event()
    make_executor = partial(FaultyExecutor, faults, down.set) if faults else Worker
    executor = make_executor(
        machine,
        clock,
        queue,
        history,
        hub,
        previews=settings.preview_method != "none",
        gaps=settings.gaps,
        seed=settings.seed,
    )
    middlewares = [FaultyAnswers(faults, clock).middleware] if faults else []
    app = web.Application(client_max_size=MAX_UPLOAD_BYTES, middlewares=middlewares)
    app[SIMULATOR] = Simulator(settings, clock, machine, queue, history, hub, executor, down)
    add_routes(app)
    app.cleanup_ctx.append(_background)
    app.on_shutdown.append(_close_sockets)
    return app


def create_runner(app: web.Application, shutdown_timeout: float = 1.0) -> web.AppRunner:
    """Return a runner for an application; errors in requests go only to the log that clients can read."""
    logger = logging.Logger("simulator")
    logger.addHandler(app[SIMULATOR].machine.log)
    return web.AppRunner(app, access_log=None, logger=logger, shutdown_timeout=shutdown_timeout)


async def _background(app: web.Application) -> AsyncIterator[None]:
    simulator = app[SIMULATOR]
    tasks = [asyncio.create_task(simulator.executor.work()), asyncio.create_task(simulator.hub.publish())]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def serve(
    settings: SimulatorSettings, host: str = "127.0.0.1", port: int = 8188, exit_with_parent: bool = False
) -> None:
    """Serve until SIGINT or SIGTERM; the line that is printed at the start names the port, a free one for port 0.

    With `exit_with_parent`, also stop when stdin ends or the parent process has exited.
    Raises UsageError if it is impossible to listen on the host and port.
    """
    if not 0 <= port <= _HIGHEST_PORT:
        raise UsageError(f"a port is a number from 0 (a free one) to {_HIGHEST_PORT}, not {port}")
    asyncio.run(_serve(settings, host, port, exit_with_parent))


async def _serve(settings: SimulatorSettings, host: str, port: int, exit_with_parent: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # event loops on Windows have no signal handlers
            loop.add_signal_handler(name, stop.set)
    if exit_with_parent:
        threading.Thread(target=_wait_for_end_of_stdin, args=(loop, stop), daemon=True).start()
        await asyncio.gather(_serve_until(stop, create_app(settings), host, port), _stop_when_orphaned(stop))
    else:
        app = create_app(settings)
        app[SIMULATOR].machine.on_guess = lambda text: print(harmless(f"comfyload simulator: {text}"), flush=True)
        await _serve_until(stop, app, host, port)


async def _serve_until(stop: asyncio.Event, app: web.Application, host: str, port: int) -> None:
    async with _listening(app, host, port) as real_port:
        print(f"comfyload simulator listening on http://{host}:{real_port}", flush=True)
        await _first(stop, app[SIMULATOR].down)
    if not stop.is_set():
        await _serve_again(app[SIMULATOR], host, real_port, stop)


async def _serve_again(before: Simulator, host: str, port: int, stop: asyncio.Event) -> None:
    """Serve again after the restart, of which there is only one."""
    await before.clock.until(before.clock.now() + _DOWN_SECONDS)
    faults = {name: value for name, value in before.settings.faults.items() if name != "restart"}
    async with _listening(create_app(replace(before.settings, faults=faults), before), host, port):
        await stop.wait()


@contextlib.asynccontextmanager
async def _listening(app: web.Application, host: str, port: int) -> AsyncIterator[int]:
    """Serve an application; yield the port that it listens on."""
    runner = create_runner(app)
    await runner.setup()
    try:
        await _listen(runner, host, port)
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, host: str, port: int) -> None:
    try:
        await web.TCPSite(runner, host, port).start()
    except (socket.gaierror, UnicodeError):
        raise UsageError(f"cannot listen on host {host!r}: it is no name or address of this machine") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = "the port is in use; name another, or 0 for a free one"
        else:
            reason = os.strerror(error.errno) if error.errno else str(error)
        raise UsageError(f"cannot listen on {host}:{port}: {reason}") from None


async def _close_sockets(app: web.Application) -> None:
    await app[SIMULATOR].hub.close()


async def _first(*events: asyncio.Event) -> None:
    """Wait until one of the events is set."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


async def _stop_when_orphaned(stop: asyncio.Event) -> None:
    parent = os.getppid()
    while not stop.is_set() and os.getppid() == parent:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _PARENT_CHECK_SECONDS)
    stop.set()


def _wait_for_end_of_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    with contextlib.suppress(OSError):
        while os.read(sys.stdin.fileno(), 4096):
            pass
    with contextlib.suppress(RuntimeError):  # the loop is already closed
        loop.call_soon_threadsafe(stop.set)
