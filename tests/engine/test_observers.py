"""Servers are observed from outside: bounded samples at both ends and in between; only new log lines count."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.clock import Clock
from pytest_comfyload.engine import observers as server_stats
from pytest_comfyload.engine.observers import ServerStats

RETRY = "Warning: Ran out of memory when regular VAE decoding, retrying with tiled VAE decoding.\n"


class Server:
    """A server that reports its memory and, if `log` is not None, its log."""

    def __init__(self, log: list[tuple[str, str]] | None) -> None:
        self.log = log
        self.looks = 0
        self.used = 100
        self.hangs = False

    async def __aenter__(self) -> ServerAddress:
        app = web.Application()
        app.router.add_get("/system_stats", self._stats)
        if self.log is not None:
            app.router.add_get("/internal/logs/raw", self._logs)
        self._stack = AsyncExitStack()
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return ServerAddress(f"http://127.0.0.1:{runner.addresses[0][1]}")

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    async def _stats(self, request: web.Request) -> web.Response:
        if self.hangs:
            await asyncio.sleep(60)
        self.looks += 1
        device = {"name": "gpu", "vram_total": 50, "vram_free": 20}
        system = {"ram_total": 1000, "ram_free": 1000 - self.used, "comfyui_version": "1"}
        working = {**device, "torch_vram_total": 30}
        return web.json_response({"system": system, "devices": [device, working, device]})

    async def _logs(self, request: web.Request) -> web.Response:
        return web.json_response({"entries": [{"t": stamp, "m": line} for stamp, line in self.log or ()]})


async def looked(server: Server, times: int) -> None:
    async with asyncio.timeout(20):
        while server.looks < times:
            await asyncio.sleep(0.01)


def test_memory_is_sampled_at_both_ends_and_between() -> None:
    async def watch() -> ServerStats:
        server = Server(log=None)
        async with server as address:
            stats = ServerStats([address], Clock(scale=200))
            async with stats.watching():
                await looked(server, 3)
                server.used = 300
        return stats

    stats = asyncio.run(watch())
    assert len(stats.samples) >= 4
    assert (stats.samples[0].ram_used, stats.samples[0].vram_used) == (100, 60)
    assert stats.samples[-1].ram_used == 300
    assert stats.samples[2].time - stats.samples[1].time >= 5 - 0.1
    assert stats.silent_ooms is None


def test_only_what_the_run_added_to_the_log_counts() -> None:
    async def watch() -> int | None:
        server = Server(log=[("2026-01-01T00:00:01", RETRY)])
        async with server as address:
            stats = ServerStats([address], Clock(scale=200))
            async with stats.watching():
                assert server.log is not None
                server.log += [("2026-01-01T00:00:02", RETRY), ("2026-01-01T00:00:03", "got prompt\n")]
                await looked(server, server.looks + 2)
                server.log[:] = [("2026-01-01T00:00:04", RETRY)]
        return stats.silent_ooms

    assert asyncio.run(watch()) == 2


def test_a_server_that_hangs_or_is_gone_leaves_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_stats, "PATIENCE", 0.2)

    async def watch() -> ServerStats:
        server = Server(log=[])
        async with server as address:
            stats = ServerStats([address, ServerAddress("http://127.0.0.1:9")], Clock())
            async with stats.watching():
                server.hangs = True
        return stats

    stats = asyncio.run(watch())
    assert len(stats.samples) == 1
    assert stats.silent_ooms == 0


def test_an_error_in_the_load_passes_through() -> None:
    async def watch() -> Any:
        async with Server(log=None) as address, ServerStats([address], Clock()).watching():
            raise KeyError("load")

    with pytest.raises(KeyError):
        asyncio.run(watch())


def test_samples_are_bounded_and_keep_their_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_stats, "MOST_SAMPLES", 8)

    async def watch() -> ServerStats:
        server = Server(log=None)
        async with server as address:
            stats = ServerStats([address], Clock(scale=200))
            async with stats.watching():
                await looked(server, 3)
                server.used = 900
                await looked(server, 5)
                server.used = 200
                await looked(server, 20)
        return stats

    samples = asyncio.run(watch()).samples
    assert len(samples) <= 8
    assert max(sample.ram_used for sample in samples) == 900
    assert samples[0].ram_used == 100
