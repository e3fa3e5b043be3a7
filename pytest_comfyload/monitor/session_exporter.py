"""Exporter of `/metrics` for the servers under load, in a thread of the process that loads them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterable, Mapping

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.errors import ComfyloadError
from pytest_comfyload.gpu.spec import GpuSpec
from pytest_comfyload.monitor.exporter import Endpoint, listening
from pytest_comfyload.monitor.load_figures import LoadFigures
from pytest_comfyload.monitor.server_record import ServerRecord
from pytest_comfyload.monitor.watch import ServerWatch, label_of
from pytest_comfyload.result.outcome import Outcome

__all__ = ["SessionExporter"]

# Seconds allowed for opening the port, and for closing it.
PATIENCE = 5.0


class SessionExporter:
    """Exporter that serves from `start` to `close`; its methods may be called from any thread.

    The servers are watched as by `comfyload monitor`, so that the series have the same names and meanings.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._figures = LoadFigures()
        self._watches: dict[str, ServerWatch] = {}
        self._watching = contextlib.AsyncExitStack()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="comfyload-prometheus", daemon=True)
        self._server = contextlib.AsyncExitStack()

    def start(self) -> str:
        """Start serving and return the URL. Raises: UsageError if the port is not available."""
        self._thread.start()
        try:
            return asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(PATIENCE)
        except ComfyloadError:
            self.close()
            raise

    async def _listen(self) -> str:
        serving = listening(lambda: list(self._watches.values()), self._endpoint, self._figures.collect)
        return await self._server.enter_async_context(serving)

    def watch(self, servers: Iterable[ServerAddress], gpus: Mapping[str, GpuSpec]) -> None:
        """Watch these servers in addition to the earlier ones."""
        for server in servers:
            self._figures.begin(server.url)
            if server.url not in self._watches:
                record = ServerRecord(label_of(server.url))
                self._watches[server.url] = watch = ServerWatch(server, record, gpus.get(server.url))
                asyncio.run_coroutine_threadsafe(self._enter(watch), self._loop)

    async def _enter(self, watch: ServerWatch) -> None:
        await self._watching.enter_async_context(watch.watching())

    def add(self, outcome: Outcome) -> None:
        self._figures.add(outcome)

    def close(self) -> None:
        async def end() -> None:
            await self._watching.aclose()
            await self._server.aclose()

        if not self._loop.is_closed():
            with contextlib.suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(end(), self._loop).result(PATIENCE)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(PATIENCE)
            self._loop.close()
