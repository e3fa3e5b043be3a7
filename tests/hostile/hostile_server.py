"""A small ComfyUI over raw sockets that is valid by default, and misbehaves in the one way that a case specifies.

HTTP and WebSocket framing are implemented here byte by byte, so that a case can break either.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import hashlib
import io
import json
import random
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from PIL import Image

__all__ = [
    "GRAPH",
    "Case",
    "Comfy",
    "Request",
    "answer",
    "event",
    "events",
    "frame",
    "history_entry",
    "picture",
    "serving",
    "status",
    "text",
]

# The workflow that the loads send. The input file is uploaded in cases that need it.
GRAPH: dict[str, Any] = {
    "1": {"class_type": "KSampler", "inputs": {"seed": 1, "steps": 4}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "hostile"}},
}
_INT = {"min": 0, "max": 2**64 - 1}
OBJECT_INFO: dict[str, Any] = {
    "KSampler": {
        "input": {"required": {"seed": ["INT", _INT], "steps": ["INT", {"min": 1, "max": 100}]}},
        "output": ["IMAGE"],
        "output_node": False,
    },
    "SaveImage": {
        "input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {}]}},
        "output": [],
        "output_node": True,
    },
    "LoadImage": {
        "input": {"required": {"image": [["there.png"], {"image_upload": True}]}},
        "output": ["IMAGE"],
        "output_node": False,
    },
}
GIB = 2**30
STATS: dict[str, Any] = {
    "system": {"os": "posix", "ram_total": 64 * GIB, "ram_free": 32 * GIB, "comfyui_version": "0.3.75", "argv": ["m"]},
    "devices": [
        {
            "name": "cuda:0 NVIDIA Hostile",
            "type": "cuda",
            "index": 0,
            "vram_total": 24 * GIB,
            "vram_free": 20 * GIB,
            "torch_vram_total": GIB,
            "torch_vram_free": GIB,
        }
    ],
}


@dataclass(frozen=True)
class Request:
    """One HTTP request, and the connection on which to answer it."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


Conduct = Callable[["Comfy", Request], Awaitable[None]]
# A script yields bytes to send or seconds to wait.
Script = Callable[["Comfy", str], Iterable[bytes | float]]


@dataclass(frozen=True)
class Case:
    """One way to misbehave.

    Args:
        where: The route, such as `GET /queue`; `connect`, before anything is read; `*`, every route; `ws greeting` and
            `ws events`, for which `conduct` is a `Script`.
        load: The load that meets the case, by its name in `hostile_loads.LOADS`.
        silent: Prompts get no events and no history: the load waits until its timeout.
        tested: Whether the tests use the case; the others are run by the command only.
    """

    name: str
    where: str
    conduct: Any
    load: str = "plain"
    silent: bool = False
    tested: bool = True


class Comfy:
    """The state of a server for one case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.asked: dict[str, int] = {}
        self.graphs: dict[str, Any] = {}
        self.created: dict[str, int] = {}
        self.done: set[str] = set()
        self.sockets: dict[str, asyncio.StreamWriter] = {}
        self.files: list[str] = ["there.png"]
        self.tasks: set[asyncio.Task[None]] = set()

    # --- one connection ---

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            if self.case.where == "connect":
                await self.case.conduct(self, Request("", "", {}, {}, b"", reader, writer))
                return
            while (request := await _read_request(reader, writer)) is not None:
                await self._answer(request)
        except (OSError, EOFError, asyncio.CancelledError, asyncio.LimitOverrunError):
            pass
        finally:
            self.tasks.discard(task)
            writer.transport.abort() if writer.transport.get_write_buffer_size() > 2**20 else writer.close()

    async def _answer(self, request: Request) -> None:
        route = route_of(request)
        self.asked[route] = self.asked.get(route, 0) + 1
        if self.case.where in (route, "*"):
            await self.case.conduct(self, request)
        else:
            await self.behave(request)

    async def behave(self, request: Request) -> None:
        """Answer as ComfyUI does."""
        if request.path == "/ws":
            await self.talk(request)
            return
        body = self.body_of(request)
        code = 404 if body is None else 200
        kind = "image/png" if isinstance(body, bytes) and body else "application/json"
        await request.send(answer(b"" if body is None else body, code, kind))

    def body_of(self, request: Request) -> Any:
        """Return the body of a valid response; None if the resource does not exist."""
        match route_of(request):
            case "GET /system_stats":
                return STATS
            case "GET /object_info":
                name = request.path.removeprefix("/object_info").strip("/")
                return OBJECT_INFO if not name else {name: OBJECT_INFO[name]} if name in OBJECT_INFO else {}
            case "GET /prompt":
                return {"exec_info": {"queue_remaining": self.waiting}}
            case "POST /prompt":
                return self.accept(json.loads(request.body))
            case "GET /queue":
                return {"queue_running": [], "queue_pending": []}
            case "GET /history":
                prompt_id = request.path.rpartition("/")[2]
                return {prompt_id: history_entry(self, prompt_id)} if prompt_id in self.done else {}
            case "GET /view":
                return picture() if request.query.get("type") != "input" else None
            case "POST /upload":
                return {"name": "there.png", "subfolder": "", "type": "input"}
            case "POST /queue" | "POST /interrupt" | "POST /free":
                return b""
        return None

    @property
    def waiting(self) -> int:
        return 0 if self.case.silent else len(self.graphs) - len(self.done)

    def accept(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt_id = body["prompt_id"]
        self.graphs[prompt_id], self.created[prompt_id] = body["prompt"], now_ms()
        task = asyncio.get_running_loop().create_task(self._execute(prompt_id, body["client_id"]))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return {"prompt_id": prompt_id, "number": len(self.graphs), "node_errors": []}

    async def _execute(self, prompt_id: str, client_id: str) -> None:
        await asyncio.sleep(0.03)
        if self.case.silent:
            return
        script = self.case.conduct if self.case.where == "ws events" else events
        self.done.add(prompt_id)
        with contextlib.suppress(OSError, KeyError):
            for step in script(self, prompt_id):
                # As on a real server, the newest socket of a client receives its events.
                writer = self.sockets[client_id]
                if writer.is_closing():
                    return
                if isinstance(step, bytes):
                    writer.write(step)
                    await writer.drain()
                else:
                    await asyncio.sleep(step)

    # --- WebSocket ---

    async def talk(self, request: Request) -> None:
        await request.send(handshake(request))
        self.sockets[request.query["clientId"]] = request.writer
        greeting = self.case.conduct if self.case.where == "ws greeting" else _greeting
        for step in greeting(self, request.query["clientId"]):
            await (request.send(step) if isinstance(step, bytes) else asyncio.sleep(step))
        while data := await request.reader.read(2**16):
            if data[0] & 0x0F == 8:
                await request.send(frame(b"\x03\xe8", opcode=8))
                break
        raise EOFError


def route_of(request: Request) -> str:
    return f"{request.method} /{request.path.split('/')[1]}"


def now_ms() -> int:
    return int(time.time() * 1000)


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    line, *lines = head.strip().split("\r\n")
    method, target, _ = line.split(" ", 2)
    headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    parts = urlsplit(target)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    return Request(method, parts.path.removeprefix("/api"), query, headers, body, reader, writer)


# --- HTTP ---


def answer(
    body: Any = b"", code: int | str = 200, kind: str = "application/json", *headers: str, length: int | None = None
) -> bytes:
    """Return a whole response; a text body is sent as it is, and anything else but bytes as JSON."""
    content = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    lines = [
        f"HTTP/1.1 {code} Hm",
        f"Content-Type: {kind}",
        f"Content-Length: {len(content) if length is None else length}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + content


def history_entry(comfy: Comfy, prompt_id: str) -> dict[str, Any]:
    created = comfy.created[prompt_id]
    messages = [
        [name, {"prompt_id": prompt_id, "timestamp": created + late}]
        for name, late in (("execution_start", 31), ("execution_success", 60))
    ]
    return {
        "prompt": [1, prompt_id, comfy.graphs[prompt_id], {"create_time": created}, ["2"]],
        "outputs": {"2": output_of(prompt_id)},
        "status": {"status_str": "success", "completed": True, "messages": messages},
        "meta": {},
    }


def output_of(prompt_id: str) -> dict[str, Any]:
    return {"images": [{"filename": f"{prompt_id}.png", "subfolder": "", "type": "output"}]}


@functools.cache
def picture() -> bytes:
    content = io.BytesIO()
    Image.frombytes("RGB", (64, 64), random.Random(1).randbytes(64 * 64 * 3)).save(content, "PNG")
    return content.getvalue()


# --- WebSocket frames ---


def handshake(request: Request, accept: str | None = None, code: int = 101, *headers: str) -> bytes:
    key = request.headers.get("sec-websocket-key", "")
    digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode(), usedforsecurity=False).digest()
    lines = [
        f"HTTP/1.1 {code} Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept or base64.b64encode(digest).decode()}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def frame(
    payload: bytes, opcode: int = 1, *, fin: bool = True, mask: bool = False, reserved: int = 0, length: int = -1
) -> bytes:
    """Return one frame; `length` is the announced length if it differs from the payload's."""
    size = len(payload) if length < 0 else length
    first, flag = (0x80 if fin else 0) | reserved << 4 | opcode, 0x80 if mask else 0
    if size < 126:
        head = struct.pack(">BB", first, flag | size)
    elif size < 2**16:
        head = struct.pack(">BBH", first, flag | 126, size)
    else:
        head = struct.pack(">BBQ", first, flag | 127, size)
    return head + (b"\0\0\0\0" if mask else b"") + payload


def text(message: Any) -> bytes:
    """Return a text frame; anything but bytes is sent as JSON."""
    return frame(message if isinstance(message, bytes) else json.dumps(message).encode())


def event(kind: str, prompt_id: str, **data: Any) -> bytes:
    return text({"type": kind, "data": {"prompt_id": prompt_id, **data}})


def status(remaining: Any = 0) -> bytes:
    return text({"type": "status", "data": {"status": {"exec_info": {"queue_remaining": remaining}}, "sid": "s"}})


def _greeting(comfy: Comfy, client_id: str) -> Sequence[bytes]:
    return [status(comfy.waiting)]


def events(comfy: Comfy, prompt_id: str) -> Iterator[bytes | float]:
    """Yield the events that a valid server sends for a prompt."""
    created = comfy.created[prompt_id]
    yield status(1)
    yield event("execution_start", prompt_id, timestamp=created + 31)
    yield event("execution_cached", prompt_id, nodes=[], timestamp=created + 32)
    yield event("executing", prompt_id, node="1")
    for step in (1, 2, 3, 4):
        yield event("progress", prompt_id, node="1", value=step, max=4)
    yield 0.03
    yield event("executing", prompt_id, node="2")
    yield event("executed", prompt_id, node="2", output=output_of(prompt_id))
    yield event("execution_success", prompt_id, timestamp=created + 60)
    yield event("executing", prompt_id, node=None)
    yield status(0)


# --- a thread with one server per case ---


@dataclass
class _Servers:
    urls: dict[str, str] = field(default_factory=dict)
    comfies: dict[str, Comfy] = field(default_factory=dict)


@contextlib.contextmanager
def serving(cases: Sequence[Case]) -> Iterator[dict[str, str]]:
    """Serve each case on its own port; yield the URLs by the names of the cases."""
    urls: dict[str, str] = {}
    ready, loop = threading.Event(), asyncio.new_event_loop()

    async def serve() -> None:
        over = asyncio.Event()
        stop.append(lambda: loop.call_soon_threadsafe(over.set))
        comfies = [Comfy(case) for case in cases]
        async with contextlib.AsyncExitStack() as stack:
            for comfy in comfies:
                listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128))
                urls[comfy.case.name] = f"http://127.0.0.1:{listener.getsockname()[1]}"
                if comfy.case.where == "listen":
                    # Without a backlog, this connection, which only the kernel accepts, leaves no room for another one.
                    listener.listen(0)
                    stack.enter_context(socket.create_connection(listener.getsockname()))
                else:
                    server = await asyncio.start_server(comfy.serve, sock=listener, limit=2**26)
                    stack.callback(server.close)
            ready.set()
            await over.wait()
            tasks = [task for comfy in comfies for task in comfy.tasks]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    stop: list[Callable[[], object]] = []
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="hostile servers")
    thread.start()
    ready.wait()
    try:
        yield urls
    finally:
        stop[0]()
        thread.join()
        loop.close()
