"""A Prometheus endpoint on a real socket that serves what its test specifies."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiohttp import web

__all__ = ["DCGM", "Exporter"]

DCGM = (Path(__file__).parent / "dcgm_metrics.txt").read_text(encoding="utf-8")


class Exporter:
    """An exporter that serves `text`, or status 503 if it is None; while `hangs` is set, it does not answer."""

    def __init__(self, text: str | None = DCGM, path: str = "/metrics") -> None:
        self.text = text
        self.hangs = False
        self.looks = 0
        self._path = path

    async def __aenter__(self) -> Exporter:
        app = web.Application()
        app.router.add_get(self._path, self._metrics)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}{self._path}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        self.looks += 1
        if self.hangs:
            await asyncio.sleep(60)
        if self.text is None:
            raise web.HTTPServiceUnavailable
        return web.Response(text=self.text)

    async def looked(self, more: int) -> None:
        """Wait for `more` further requests."""
        enough = self.looks + more
        async with asyncio.timeout(20):
            while self.looks < enough:
                await asyncio.sleep(0.01)
