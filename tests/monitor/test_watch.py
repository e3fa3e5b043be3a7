"""Watching servers with odd answers: figures that they do not report are left out, the others count."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.launch.process import free_port
from pytest_comfyload.monitor import watch
from pytest_comfyload.monitor.history_tail import PAGE
from pytest_comfyload.monitor.server_record import ServerRecord
from pytest_comfyload.monitor.watch import ServerWatch


class OddServer:
    """A server with `history` at /history and `stats` at /system_stats; `hangs`: it does not report its queue.

    `largest` is the most entries of the history that a single request asked for.
    """

    def __init__(self) -> None:
        self.history: dict[str, Any] = {}
        self.stats: Any = {"system": {"comfyui_version": "0.3.75"}, "devices": [{"name": "privateuseone"}]}
        self.hangs = False
        self.largest = 0

    def end(
        self,
        count: int,
        size: int = 10,
        *,
        now: bool = False,
        first: int | None = None,
        ahead: float = 0,
        place: int | None = None,
    ) -> None:
        """Add `count` prompts to the history, with ids from `first` if given.

        `now`: with current timestamps, by a clock that is `ahead` by this many seconds. `place`: the number in the
        queue, instead of the one after the last.
        """
        for number in range(count):
            begun = int((time.time() + ahead) * 1000) if now else 1000
            ended = begun if now else 3000
            messages = [
                ["execution_start", {"prompt_id": "x", "timestamp": begun}],
                ["execution_success", {"prompt_id": "x", "timestamp": ended}],
            ]
            entry = {
                "prompt": [len(self.history) if place is None else place, "x", {}, {"text": "x" * size}, []],
                "outputs": {},
            }
            key = len(self.history) if first is None else first + number
            self.history[str(key)] = {**entry, "status": {"messages": messages}}

    @contextlib.asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[str]:
        application = web.Application()
        for path, handler in (
            ("/prompt", self._prompt),
            ("/history", self._history),
            ("/queue", self._queue),
            ("/system_stats", self._stats),
        ):
            application.router.add_get(path, handler)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    async def _prompt(self, request: web.Request) -> web.Response:
        if self.hangs:
            await asyncio.sleep(60)
        return web.json_response({"exec_info": {"queue_remaining": 0}})

    async def _history(self, request: web.Request) -> web.Response:
        size, offset = int(request.query["max_items"]), int(request.query.get("offset", -1))
        self.largest = max(self.largest, size)
        begin = max(0, len(self.history) - size) if offset < 0 else offset
        return web.json_response(dict(list(self.history.items())[begin : begin + size]))

    async def _queue(self, request: web.Request) -> web.Response:
        if self.hangs:
            await asyncio.sleep(60)
        return web.json_response({"queue_running": [], "queue_pending": []})

    async def _stats(self, request: web.Request) -> web.Response:
        return web.json_response(self.stats)


async def reached(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


def test_a_server_that_tells_no_memory_is_up_and_counted() -> None:
    async def run() -> ServerRecord:
        server, record = OddServer(), ServerRecord("odd")
        async with server.running() as url, ServerWatch(ServerAddress(url), record, period=0.05).watching():
            await reached(lambda: record.version == "0.3.75")
            server.end(3)
            await reached(lambda: record.ended == 3)
        return record

    record = asyncio.run(run())
    assert (record.up, record.failures) == (True, 0)
    assert (record.ram_used, record.vram_used, record.vram_total) == (None, None, None)


@pytest.mark.parametrize(("kind", "vram"), [("cuda", (3.0, 8.0)), ("cpu", (None, None))])
def test_memory_of_a_processor_is_not_shown_as_that_of_a_gpu(
    kind: str, vram: tuple[float | None, float | None]
) -> None:
    async def run() -> ServerRecord:
        server, record = OddServer(), ServerRecord("odd")
        device = {"name": "a", "type": kind, "vram_total": 8, "vram_free": 5}
        server.stats = {"system": {"comfyui_version": "0.3.75", "ram_total": 16, "ram_free": 6}, "devices": [device]}
        async with server.running() as url, ServerWatch(ServerAddress(url), record, period=0.05).watching():
            await reached(lambda: record.version == "0.3.75")
        return record

    record = asyncio.run(run())
    assert (record.ram_used, (record.vram_used, record.vram_total)) == (10.0, vram)


def test_entries_that_are_too_large_for_a_whole_page_are_read_in_smaller_ones() -> None:
    async def run() -> tuple[ServerRecord, int]:
        server, record = OddServer(), ServerRecord("odd")
        server.end(5)
        async with server.running() as url:
            # Four entries of 3 kB are within the limit, five are not.
            address = ServerAddress(url, max_response=14_000)
            server_watch = ServerWatch(address, record, period=0.05)
            async with server_watch.watching():
                await reached(lambda: record.up)
                server.end(150, 3_000)
                # A poll that fails is followed by a pause.
                await reached(lambda: record.ended == 150, 60)
        return record, server_watch.tail.page

    record, page = asyncio.run(run())
    assert record.generations["success"] == 150
    assert page == 4


def test_a_long_history_is_never_read_whole() -> None:
    """10,000 entries at the first poll, and 3,000 more before the next one."""

    async def run() -> tuple[ServerRecord, int]:
        server, record = OddServer(), ServerRecord("odd")
        server.end(10_000)
        async with server.running() as url, ServerWatch(ServerAddress(url), record, period=0.05).watching():
            await reached(lambda: record.up)
            server.end(3_000)
            await reached(lambda: record.ended == 3_000)
        return record, server.largest

    record, largest = asyncio.run(run())
    assert (record.generations["success"], record.gaps) == (3_000, 0)
    assert largest == PAGE


def test_each_restart_of_an_idle_server_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Like a server that crashes at each prompt: nothing ever ends, so the history is empty before and after."""
    monkeypatch.setattr(watch, "PAUSE", 0.05)

    async def run() -> tuple[ServerRecord, list[int]]:
        record, port, counts = ServerRecord("odd"), free_port(), []
        async with ServerWatch(ServerAddress(f"http://127.0.0.1:{port}"), record, period=0.05).watching():
            # The server is started after the monitor, which is not a restart.
            await reached(lambda: record.failures > 0)
            for restarts in range(3):
                async with OddServer().running(port):
                    await reached(lambda: record.up)
                    await reached(lambda restarts=restarts: record.restarts == restarts)  # type: ignore[misc]
                    counts.append(record.restarts)
                await reached(lambda: not record.up)
        return record, counts

    record, counts = asyncio.run(run())
    assert (counts, record.gaps) == ([0, 1, 2], 0)


def test_a_restart_that_no_look_fell_into_is_known_by_the_next_prompt() -> None:
    """Queue numbers start again, except the negative ones of prompts sent to the front of the queue."""

    async def run() -> tuple[ServerRecord, int]:
        server, record = OddServer(), ServerRecord("odd")
        async with server.running() as url, ServerWatch(ServerAddress(url), record, period=0.05).watching():
            await reached(lambda: record.up)
            server.end(3)
            await reached(lambda: record.ended == 3)
            server.history.clear()
            await reached(lambda: record.gaps == 1)
            server.end(1, first=10, place=-3)
            await reached(lambda: record.ended == 4)
            before = record.restarts
            server.history.clear()
            await reached(lambda: record.gaps == 2)
            server.end(1, first=20, place=0)
            await reached(lambda: record.ended == 5)
        return record, before

    record, before = asyncio.run(run())
    assert (before, record.restarts) == (0, 1)


def test_a_server_that_hangs_is_down_and_up_again() -> None:
    async def run() -> ServerRecord:
        server, record = OddServer(), ServerRecord("odd")
        async with server.running() as url:
            address = ServerAddress(url, deadline=0.5)
            async with ServerWatch(address, record, period=0.05).watching():
                await reached(lambda: record.up)
                server.hangs = True
                await reached(lambda: not record.up)
                assert "was not answered completely within" in record.error
                server.hangs = False
                server.end(2)
                await reached(lambda: record.ended == 2)
        return record

    record = asyncio.run(run())
    assert (record.up, record.error, record.restarts) == (True, "", 0)
