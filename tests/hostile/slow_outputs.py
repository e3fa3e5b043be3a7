"""A server whose prompts finish at once, with several outputs that are slow to arrive or slow to decode.

usage: python -m tests.hostile.slow_outputs KIND OUTPUTS

Prints its URL, listens on the loopback interface only, and exits when its stdin is closed. The first prompt's outputs
are harmless; the third prompt runs for a minute unless it is interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import subprocess
import sys
import time
import urllib.request
import zlib
from collections.abc import Iterator
from typing import Any

from aiohttp import web
from PIL import Image

from tests.run.fast_server import Farm, send

__all__ = ["slow_outputs", "state"]


@contextlib.contextmanager
def slow_outputs(kind: str, outputs: int) -> Iterator[str]:
    """Run the server in a process of its own; yield its URL."""
    command = [sys.executable, "-m", "tests.hostile.slow_outputs", kind, str(outputs)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def state(url: str) -> dict[str, Any]:
    """Return the `views` that were requested, the `prompts` that were posted, and those still running."""
    with urllib.request.urlopen(f"{url}/state", timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


class _Slow(Farm):
    def __init__(self, kind: str, outputs: int) -> None:
        super().__init__(0.0, lambda: int(time.time() * 1000))
        self._kind = kind
        self._outputs = outputs
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._views: list[str] = []
        large = io.BytesIO()
        # Images of 9000² pixels are not decoded.
        side = 9000 if kind == "huge" else 5000
        Image.new("RGB", (side, side), (1, 2, 3)).save(large, "WEBP", quality=1, method=0)
        self._large = large.getvalue()

    async def _run(self, client_id: str, item: list[Any]) -> None:
        number, prompt_id, socket = len(self._tasks), item[1], self._sockets[client_id]
        self._tasks[prompt_id] = asyncio.create_task(asyncio.sleep(60 if number == 2 else 0))
        await send(socket, "execution_start", {"prompt_id": prompt_id, "timestamp": self._stamp()})
        with contextlib.suppress(asyncio.CancelledError):
            await self._tasks[prompt_id]
            names = [f"{number}-{each}.{'webp' if self._heavy(number) else 'png'}" for each in range(self._outputs)]
            output = {"images": [{"filename": name, "subfolder": "", "type": "output"} for name in names]}
            end = {"prompt_id": prompt_id, "timestamp": self._stamp()}
            messages = [["execution_success", end]]
            self._history[prompt_id] = {"prompt": item, "outputs": {"2": output}, "status": {"messages": messages}}
            await send(socket, "executed", {"node": "2", "output": output, "prompt_id": prompt_id})
            await send(socket, "execution_success", end)
            await send(socket, "executing", {"node": None, "prompt_id": prompt_id})

    def _heavy(self, number: int) -> bool:
        return self._kind in ("heavy", "huge") and number > 0

    async def _view(self, request: web.Request) -> web.StreamResponse:  # type: ignore[override]
        name = request.query["filename"]
        self._views.append(name)
        if self._heavy(int(name.partition("-")[0])):
            return web.Response(body=self._large)
        if name.startswith("0-") or self._kind == "fast":
            await asyncio.sleep(0.05 if self._kind == "fast" else 0)
            return await super()._view(request)
        if self._kind in ("silent", "silent history"):
            await asyncio.sleep(60)
        return await self._drip(request)

    async def _drip(self, request: web.Request) -> web.StreamResponse:
        """Send a slow, long body; each compressed chunk of it unpacks to a megabyte."""
        packer = zlib.compressobj(wbits=31)
        headers = {"Content-Encoding": "gzip"} if self._kind == "gzip" else {}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            for _ in range(600):
                piece = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_SYNC_FLUSH)
                await response.write(piece if self._kind == "gzip" else b"x")
                await asyncio.sleep(0.1)
        return response

    async def _get(self, request: web.Request) -> web.Response:
        place, _, name = request.match_info["path"].partition("/")
        if place == "state":
            running = [prompt_id for prompt_id, task in self._tasks.items() if not task.done()]
            return web.json_response({"views": self._views, "prompts": len(self._tasks), "running": running})
        if place == "queue":
            items = [[0, prompt_id, {}, {}, []] for prompt_id, task in self._tasks.items() if not task.done()]
            return web.json_response({"queue_running": items, "queue_pending": []})
        if place == "interrupt":
            self._tasks[(await request.json())["prompt_id"]].cancel()
            return web.Response()
        if place == "history" and self._kind == "silent history" and name:
            await asyncio.sleep(60)
        return await super()._get(request)


async def _serve(kind: str, outputs: int) -> None:
    runner = web.AppRunner(_Slow(kind, outputs).app(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2])))
