"""A server that repeats the credentials of each request wherever it can, in every form.

usage: python -m tests.hostile.echo_server SAID

Prints its URL, listens on the loopback interface only, and exits when its stdin is closed. The first part of the path
selects its behaviour: `/ok/…` and `/nodes/…` run prompts, each with a different outcome; most others refuse.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote_plus

from aiohttp import web
from PIL import Image, PngImagePlugin

from tests.hostile.encoders import ENCODERS

__all__ = ["GRAPH", "REFUSALS", "echo_server"]

REFUSALS = ("error", "reason", "login", "redirect", "page", "text", "list", "socket", "socket_redirect", "no_status")
GRAPH: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "tiny"}},
    "3": {"class_type": "PaidNode", "inputs": {"api_key": "", "image": ["1", 0]}},
}
_INT = ["INT", {"default": 0, "min": 0, "max": 2**24}]
_TEXT = ["STRING", {"default": "x"}]


@contextlib.contextmanager
def echo_server(said: str = "") -> Iterator[str]:
    """Run the server in a process of its own, which treats `said` as another credential; yield its URL."""
    command = [sys.executable, "-m", "tests.hostile.echo_server", said]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def _credentials(request: web.Request, body: Any = None) -> list[str]:
    """Return the credentials of a request, whole and in their parts."""
    found: list[str] = []
    for name, value in request.headers.items():
        if name.lower() in ("authorization", "x-api-key", "cookie", "x-note"):
            words = [value, *value.replace(";", " ").split()]
            found += [*words, *(word.partition("=")[2] for word in words if not word.endswith("="))]
            with contextlib.suppress(ValueError):
                pair = base64.b64decode(value.split()[-1], validate=True).decode()
                found += [pair, pair.partition(":")[2]]
    for pair in request.raw_path.partition("?")[2].split("&"):
        name, _, value = pair.partition("=")
        found += [value, unquote_plus(value)] if name in ("token", "sig") else []
    found += _texts(body)
    return [each for each in dict.fromkeys(found) if len(each) >= 6 and each not in ("Bearer", "Authorization")]


def _texts(body: Any) -> list[str]:
    """Return the texts in a body under keys that mark them as secret."""
    if isinstance(body, list):
        return [text for each in body for text in _texts(each)]
    if not isinstance(body, dict):
        return []
    own = [value for name, value in body.items() if isinstance(value, str) and ("key" in name or "token" in name)]
    return [*own, *(text for each in body.values() for text in _texts(each))]


class _Echo:
    """One first part of the path: it repeats all credentials seen there, since some are only sent with prompts."""

    def __init__(self, mode: str, said: str) -> None:
        self._mode = mode
        self._seen: dict[str, None] = {said: None} if said else {}
        self._sockets: dict[str, web.WebSocketResponse] = {}
        self._history: dict[str, Any] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count()
        self._chosen = itertools.count()

    # --- what is repeated ---

    @property
    def lines(self) -> list[str]:
        """Lines with every form of a credential, one line per credential."""
        return [" ".join(encode(each) for encode in ENCODERS.values()) for each in self._seen]

    @property
    def forms(self) -> list[str]:
        return [encode(each) for each in self._seen for encode in ENCODERS.values()]

    @property
    def next(self) -> str:
        """One of the lines, in turn, for places with room for only one."""
        lines = self.lines or ["nothing"]
        return lines[next(self._chosen) % len(lines)]

    @property
    def header(self) -> str:
        """As many credentials as fit in a header, limited to those that a header may contain."""
        return " ".join(each for each in self._seen if each.isascii() and each.isprintable())[:4000]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        mode, path = self._mode, request.match_info["path"]
        is_json = request.content_type == "application/json" and request.can_read_body
        body: Any = await request.json() if is_json else None
        self._seen |= dict.fromkeys(_credentials(request, body))
        if mode not in ("ok", "nodes", "socket", "socket_redirect", "no_status"):
            return self._refusal(mode)
        if path == "ws":
            return await self._socket(request, mode)
        if path == "prompt" and request.method == "POST":
            return self._prompt(body)
        if path == "view":
            return web.Response(body=_picture(self.next), content_type="image/png", headers={"X-Echo": self.header})
        return self._get(path)

    def _refusal(self, mode: str) -> web.Response:
        said = "\n".join(self.lines)
        match mode:
            case "error":
                return web.Response(status=500, text=said)
            case "reason":
                return web.Response(status=418, reason=self.header.replace("\n", " "), text=said)
            case "login":
                return web.Response(status=401, text=said, headers={"WWW-Authenticate": f'Basic realm="{self.header}"'})
            case "redirect":
                return web.Response(status=302, headers={"Location": f"/login/{self.header}?next={self.header}"})
            case "page":
                return web.Response(text=f"<html>{said} password", content_type="text/html")
            case "text":
                return web.Response(body=said.encode(), headers={"Content-Type": f"text/{self.header}"})
            case _:
                return web.json_response(self.forms)

    def _get(self, path: str) -> web.Response:
        place, _, name = path.partition("/")
        bodies: dict[str, Any] = {
            "system_stats": self._stats(),
            "queue": {"queue_running": [], "queue_pending": []},
            "prompt": {"exec_info": {"queue_remaining": 0}},
            "object_info": {name: self._info()[name]} if name in self._info() else self._info(),
            "history": {name: self._history[name]} if name in self._history else {},
            "internal": {"entries": [{"t": "2026", "m": line} for line in self.lines]},
            "customnode": {line: {"ver": line, "enabled": True} for line in self.lines},
            "experiment": [{"name": line, "size": 5} for line in self.lines],
        }
        if place == "metrics":
            return web.Response(text=self._metrics())
        said = {"X-Echo": self.header, "Set-Cookie": f"echo={quote(next(iter(self._seen), ''), safe='')}"}
        if place in bodies:
            return web.json_response(bodies[place], headers=said, reason=self.header or None)
        return web.Response(status=404, text="\n".join(self.lines), headers=said)

    def _stats(self) -> dict[str, Any]:
        said = self.next
        return {
            "system": {
                "comfyui_version": said, "pytorch_version": self.next, "python_version": self.next, "os": said,
                "argv": ["main.py", "--fast", *self.forms], "ram_total": 2, "ram_free": 1,
            },
            "devices": [{"name": f"cuda:0 {said}", "type": "cuda", "index": 0, "vram_total": 2, "vram_free": 1}],
        }  # fmt: skip

    def _info(self) -> dict[str, Any]:
        said = f"custom_nodes.{self.next}"
        images = {"images": ["IMAGE", {"tooltip": said}]}
        save = {"input": {"required": {**images, "filename_prefix": _TEXT}}, "output_node": True}
        numbers = {"required": dict.fromkeys(("width", "height", "batch_size", "color"), _INT)}
        paid = {"required": {"api_key": [[*self.forms, "other"], {"tooltip": said}], "image": ["IMAGE"]}}
        known = {
            "EmptyImage": {"input": numbers},
            "SaveImage": save,
            "PaidNode": {"input": paid, "output_node": True, "python_module": said, "api_node": False},
        }
        return known | {line: {"input": {}, "python_module": said} for line in self.lines}

    def _metrics(self) -> str:
        said = self.next.replace("\\", "\\\\").replace('"', '\\"')
        labels = f'gpu="0",UUID="GPU-{said}",modelName="{said}",DCGM_FI_DRIVER_VERSION="{said}"'
        return f"DCGM_FI_DEV_GPU_UTIL{{{labels}}} 50\nDCGM_FI_DEV_FB_USED{{{labels}}} 5\n"

    # --- prompts ---

    def _prompt(self, body: Mapping[str, Any]) -> web.Response:
        prompt_id, number = body["prompt_id"], next(self._numbers)
        said = {line: {"errors": [_fault(line)], "class_type": line} for line in self.lines}
        end = _ENDS[number % len(_ENDS)]
        if end == "rejected":
            error = {"type": self.next, "message": self.next, "details": self.next}
            return web.json_response({"error": error, "node_errors": said}, status=400)
        if end == "error":
            return web.Response(status=503, reason=self.header, text="\n".join(self.lines))
        task = asyncio.create_task(self._run(end, body["client_id"], prompt_id, body["prompt"]))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        errors = said if end == "partial" else {}
        return web.json_response({"prompt_id": prompt_id, "number": number, "node_errors": errors})

    async def _run(self, end: str, client_id: str, prompt_id: str, graph: Mapping[str, Any]) -> None:
        socket, lines = self._sockets.get(client_id), self.lines
        if socket is None:
            return
        # One form per name: all of them would be too long for a URL.
        files = [{"filename": f"{each}.png", "subfolder": each, "type": "output"} for each in self.forms[::25]]
        output = {"images": files, "text": self.forms, self.next: files[:3]}
        stamp = {"prompt_id": prompt_id, "timestamp": int(time.time() * 1000)}
        await socket.send_str(" ".join(lines))
        await _send(socket, self.next[:60], {"x": lines})
        await _send(socket, "execution_start", stamp)
        await _send(socket, "execution_cached", {"nodes": lines, **stamp})
        for node in [*graph, *lines]:
            await _send(socket, "executing", {"node": node, "display_node": node, "prompt_id": prompt_id})
            await _send(socket, "progress", {"value": 1, "max": 2, "node": node, "prompt_id": prompt_id})
        fault = {
            "node_id": self.next, "node_type": self.next, "executed": lines, "exception_message": "\n".join(lines),
            "exception_type": self.next, "traceback": lines, "current_inputs": {"api_key": lines},
        }  # fmt: skip
        if end == "socket":
            await socket.close(message=self.header.encode()[:100])
            return
        if end in ("failed", "oom"):
            kind = "torch.OutOfMemoryError" if end == "oom" else self.next
            await self._end(socket, "execution_error", {**stamp, **fault, "exception_type": kind}, {})
        elif end == "interrupted":
            await self._end(socket, "execution_interrupted", {**stamp, **fault}, {})
        else:
            await _send(socket, "executed", {"node": "2", "output": output, "prompt_id": prompt_id})
            await self._end(socket, "execution_success", stamp, {"2": output, lines[0]: output})

    async def _end(self, socket: web.WebSocketResponse, kind: str, data: dict[str, Any], outputs: Any) -> None:
        prompt_id = data["prompt_id"]
        messages = [[kind, data], [self.next, {"x": self.lines}]]
        status = {"status_str": self.next, "completed": True, "messages": messages}
        self._history[prompt_id] = {"prompt": [0, prompt_id, {}, {}, []], "outputs": outputs, "status": status}
        await _send(socket, kind, data)
        await _send(socket, "executing", {"node": None, "prompt_id": prompt_id})

    async def _socket(self, request: web.Request, mode: str) -> web.StreamResponse:
        if mode == "socket":
            return web.Response(status=403, reason=self.header, text="\n".join(self.lines))
        if mode == "socket_redirect":
            return web.Response(status=302, headers={"Location": f"http://127.0.0.1:1/{self.header}"})
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self._sockets[request.query["clientId"]] = socket
        if mode == "no_status":
            await socket.close(message=self.header.encode()[:100])
            return socket
        await _send(socket, "status", {"status": {"exec_info": {"queue_remaining": 0}}, "sid": self.next})
        async for _ in socket:
            pass
        return socket


def _fault(said: str) -> dict[str, Any]:
    return {"message": said, "details": said, "extra_info": {"input_name": said}}


_ENDS = ("success", "failed", "rejected", "error", "partial", "oom", "interrupted", "socket")


def _picture(said: str) -> bytes:
    """Return an image with the credentials in its metadata."""
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", json.dumps(said))
    picture = io.BytesIO()
    Image.frombytes("RGB", (64, 64), bytes(range(256)) * 48).save(picture, "PNG", pnginfo=info)
    return picture.getvalue()


async def _send(socket: web.WebSocketResponse, kind: str, data: dict[str, Any]) -> None:
    with contextlib.suppress(ConnectionError):
        await socket.send_json({"type": kind, "data": data})


async def _serve(said: str) -> None:
    echoes = {mode: _Echo(mode, said) for mode in ("ok", "nodes", *REFUSALS)}
    app = web.Application()
    app.router.add_route("*", "/{mode}/{path:.*}", lambda request: echoes[request.match_info["mode"]].answer(request))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
