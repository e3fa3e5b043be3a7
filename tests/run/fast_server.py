"""A stand-in for a farm of ComfyUI servers: every prompt takes the given time, and any number of them run at once.

usage: python -m tests.run.fast_server SECONDS STAMP

Prints its URL, listens on the loopback interface only, and exits when its stdin is closed. STAMP is the expression that
computes a stamp from `now`, the seconds since the epoch, such as `int(now * 1000)` for ComfyUI's milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from aiohttp import web
from PIL import Image

__all__ = ["GRAPH", "INFO", "MILLISECONDS", "STATS", "Farm", "fast_server", "picture", "send"]

MILLISECONDS = "int(now * 1000)"
GRAPH: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "tiny"}},
}
_INT = ["INT", {"default": 0, "min": 0, "max": 2**24}]
INFO = {
    "EmptyImage": {"input": {"required": dict.fromkeys(("width", "height", "batch_size", "color"), _INT)}},
    "SaveImage": {
        "input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {"default": "x"}]}},
        "output_node": True,
    },
}
STATS = {
    "system": {"comfyui_version": "0.3.75", "argv": ["main.py"], "ram_total": 2, "ram_free": 1},
    "devices": [{"name": "cuda:0 Fast", "type": "cuda", "index": 0, "vram_total": 2, "vram_free": 1}],
}


@contextlib.contextmanager
def fast_server(seconds: float, stamp: str = MILLISECONDS) -> Iterator[str]:
    """Run the server in a process of its own; yield its URL."""
    command = [sys.executable, "-m", "tests.run.fast_server", str(seconds), stamp]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def picture() -> bytes:
    """Return a small PNG."""
    content = io.BytesIO()
    Image.frombytes("RGB", (64, 64), bytes(range(256)) * 48).save(content, "PNG")
    return content.getvalue()


class Farm:
    def __init__(self, seconds: float, stamp: Callable[[], object]) -> None:
        self._seconds = seconds
        self._stamp = stamp
        self._sockets: dict[str, web.WebSocketResponse] = {}
        self._history: dict[str, Any] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._picture = picture()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/prompt", self._post)
        app.router.add_get("/ws", self._socket)
        app.router.add_get("/view", self._view)
        app.router.add_route("*", "/{path:.*}", self._get)
        return app

    async def _post(self, request: web.Request) -> web.Response:
        body = await request.json()
        item = [0, body["prompt_id"], body["prompt"], {"create_time": self._stamp()}, ["2"]]
        task = asyncio.create_task(self._run(body["client_id"], item))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return web.json_response({"prompt_id": body["prompt_id"], "number": 1, "node_errors": {}})

    async def _run(self, client_id: str, item: list[Any]) -> None:
        prompt_id, socket = item[1], self._sockets[client_id]
        start = {"prompt_id": prompt_id, "timestamp": self._stamp()}
        await send(socket, "execution_start", start)
        await asyncio.sleep(self._seconds)
        output = {"images": [{"filename": f"{prompt_id}.png", "subfolder": "", "type": "output"}]}
        await send(socket, "executed", {"node": "2", "output": output, "prompt_id": prompt_id})
        end = {"prompt_id": prompt_id, "timestamp": self._stamp()}
        messages = [["execution_start", start], ["execution_success", end]]
        self._history[prompt_id] = {"prompt": item, "outputs": {"2": output}, "status": {"messages": messages}}
        await send(socket, "execution_success", end)
        await send(socket, "executing", {"node": None, "prompt_id": prompt_id})

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self._sockets[request.query["clientId"]] = socket
        await send(socket, "status", {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "s"})
        async for _ in socket:
            pass
        return socket

    async def _view(self, request: web.Request) -> web.Response:
        return web.Response(body=self._picture, content_type="image/png")

    async def _get(self, request: web.Request) -> web.Response:
        place, _, name = request.match_info["path"].partition("/")
        bodies: dict[str, Any] = {
            "system_stats": STATS,
            "queue": {"queue_running": [], "queue_pending": []},
            "prompt": {"exec_info": {"queue_remaining": 0}},
            "object_info": {name: INFO[name]} if name in INFO else INFO,
            "history": {name: self._history[name]} if name in self._history else {},
        }
        return web.json_response(bodies[place]) if place in bodies else web.Response(status=404)


async def send(socket: web.WebSocketResponse, kind: str, data: dict[str, Any]) -> None:
    with contextlib.suppress(ConnectionError):
        await socket.send_json({"type": kind, "data": data})


async def _serve(seconds: float, stamp: str) -> None:
    runner = web.AppRunner(Farm(seconds, lambda: eval(stamp, {"now": time.time()})).app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1]), sys.argv[2]))
