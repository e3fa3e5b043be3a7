"""Small servers on real sockets: some send bytes and hang up, one implements as much of ComfyUI as a test needs."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

__all__ = ["FakeComfy", "bytes_server", "closed_port", "listening", "silent_server"]

STATUS = {"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "me"}}


@contextlib.asynccontextmanager
async def bytes_server(answer: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Send `answer` to every request and close the connection; yield `host:port`."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
                await reader.read()  # closing with unread bytes would reset the connection too early
        writer.close()

    async with listening(talk, tls) as place:
        yield place


@contextlib.asynccontextmanager
async def silent_server() -> AsyncIterator[str]:
    """Accept every request and never answer; yield `host:port`."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with listening(listen, None) as place:
        yield place


_Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]


@contextlib.asynccontextmanager
async def listening(talk: _Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve each connection with `talk`; yield `host:port`."""
    talks: set[asyncio.Task[None]] = set()

    async def remember(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.add(asyncio.create_task(talk(reader, writer)))

    server = await asyncio.start_server(remember, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.gather(*talks)
        await server.wait_closed()


async def closed_port() -> str:
    """Return a `host:port` where nothing listens any more."""
    async with listening(lambda reader, writer: asyncio.sleep(0), None) as place:
        return place


@dataclass
class FakeComfy:
    """A server that behaves as its fields say, records every request, and sends what a test tells it to."""

    on_post: Callable[[FakeComfy, dict[str, Any]], Awaitable[web.StreamResponse]] | None = None
    on_socket: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
    bodies: dict[str, Any] = field(default_factory=dict)
    http_cookies: dict[str, str] = field(default_factory=dict)
    socket_cookies: dict[str, str] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None
    requests: list[tuple[str, str, dict[str, str], str]] = field(default_factory=list)
    sockets: list[web.WebSocketResponse] = field(default_factory=list)
    hang_up: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def __aenter__(self) -> FakeComfy:
        app = web.Application()
        app.router.add_get("/ws", self._socket)
        app.router.add_post("/prompt", self._post)
        app.router.add_route("*", "/{path:.*}", self._other)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self.tls)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"{'https' if self.tls else 'http'}://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.hang_up.set()
        await self._runner.cleanup()

    def headers(self, method: str, path: str) -> dict[str, str]:
        """Return the headers of the last request with this method and path, by lower-case name."""
        return next(headers for m, p, headers, _ in reversed(self.requests) if (m, p) == (method, path))

    def body(self, method: str, path: str) -> str:
        return next(body for m, p, _, body in reversed(self.requests) if (m, p) == (method, path))

    async def send(self, kind: str, **data: Any) -> None:
        for socket in self.sockets:
            await socket.send_json({"type": kind, "data": data})

    async def _note(self, request: web.Request) -> None:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append((request.method, request.path_qs, headers, await request.text()))

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(("GET", request.path, {k.lower(): v for k, v in request.headers.items()}, ""))
        if self.on_socket is not None:
            return await self.on_socket(request)
        socket = web.WebSocketResponse()
        for name, value in self.socket_cookies.items():
            socket.set_cookie(name, value)
        await socket.prepare(request)
        self.sockets.append(socket)
        await socket.send_json(STATUS)
        await self.hang_up.wait()
        await socket.close()
        return socket

    async def _post(self, request: web.Request) -> web.StreamResponse:
        await self._note(request)
        body = await request.json()
        if self.on_post is not None:
            return await self.on_post(self, body)
        return web.json_response({"prompt_id": body["prompt_id"], "number": 1, "node_errors": {}})

    async def _other(self, request: web.Request) -> web.StreamResponse:
        await self._note(request)
        body = self.bodies.get(request.path, {})
        response = web.Response(body=body) if isinstance(body, bytes) else web.json_response(body)
        for name, value in self.http_cookies.items():
            response.set_cookie(name, value)
        return response
