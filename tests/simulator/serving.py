"""A simulator in the test's own event loop, on a free port, closed when the test exits its context."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from pytest_comfyload.simulator.server import create_app, create_runner
from pytest_comfyload.simulator.settings import SimulatorSettings

__all__ = ["serving"]


@asynccontextmanager
async def serving(settings: SimulatorSettings) -> AsyncIterator[str]:
    """Run a server with these settings; yield its URL."""
    runner = create_runner(create_app(settings), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
