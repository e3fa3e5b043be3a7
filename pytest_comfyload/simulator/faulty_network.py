"""Faults of the network: refused, delayed and corrupted responses; lost, repeated and delayed messages."""

from __future__ import annotations

import asyncio
import io
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakKeyDictionary

from aiohttp import web
from PIL import Image

from pytest_comfyload.image_containers import PictureError
from pytest_comfyload.image_files import decoding
from pytest_comfyload.simulator.events import Hub
from pytest_comfyload.simulator.faults import Faults
from pytest_comfyload.simulator.virtual_clock import VirtualClock

__all__ = ["FaultyAnswers", "FaultyHub"]

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_Route = tuple[str, str]

_PROMPT: _Route = ("POST", "prompt")
_HISTORY: _Route = ("GET", "history")
_VIEW: _Route = ("GET", "view")
_SLOW = {_PROMPT: "slow-post", _HISTORY: "slow-history", _VIEW: "slow-view"}
_TROUBLE = "500 Internal Server Error\n\nServer got itself in trouble"


class FaultyAnswers:
    """The faults of responses, as a `middleware` for an application; times are virtual."""

    def __init__(self, faults: Faults, clock: VirtualClock) -> None:
        self._faults = faults
        self._clock = clock
        self._posts = 0
        self._down_until: float | None = None

    @web.middleware
    async def middleware(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        route = _route(request)
        refusal = self._refusal(route)
        if refusal is not None:
            return refusal
        if route in _SLOW:
            await self._wait(_SLOW[route])
        response = await handler(request)
        if route == _PROMPT and response.status == 200:
            await self._after_acceptance()
        if route == _VIEW and isinstance(response, web.Response) and response.status == 200:
            return await self._spoilt(response, request.query["filename"])
        return response

    def _refusal(self, route: _Route) -> web.Response | None:
        if "login" in self._faults:
            return web.Response(status=401, text="401: Unauthorized", headers={"WWW-Authenticate": "Basic"})
        if self._down_until is not None and self._clock.now() < self._down_until:
            return web.Response(status=503, text="503: Service Unavailable")
        self._posts += route == _PROMPT
        if route == _PROMPT and self._faults.strikes("http-500", self._posts):
            return web.Response(status=500, text=_TROUBLE)
        if route == _HISTORY and "evicted-history" in self._faults:
            return web.json_response({})
        return None

    async def _after_acceptance(self) -> None:
        if self._down_until is None:
            self._down_until = self._clock.now() + self._faults.get("http-503-burst", 0)
        await self._wait("early-event")

    async def _wait(self, fault: str) -> None:
        await self._clock.until(self._clock.now() + self._faults.get(fault, 0))

    async def _spoilt(self, response: web.Response, file: str) -> web.Response:
        content = response.body
        assert isinstance(content, bytes)
        if self._faults.strikes("missing-output", file):
            return web.Response(status=404)
        if self._faults.strikes("blank-picture", file):
            response.body = await asyncio.to_thread(_blank, content)
        elif self._faults.strikes("truncated-picture", file):
            response.body = content[: len(content) // 2]
        return response


def _route(request: web.Request) -> _Route:
    """Return the method and the first segment of the path, not counting /api."""
    return request.method, request.path.removeprefix("/api/").lstrip("/").partition("/")[0]


def _blank(content: bytes) -> bytes:
    """Return a black picture of the same size and format; a file that is not a picture is returned unchanged."""
    out = io.BytesIO()
    try:
        with decoding(content) as image:
            Image.new("RGB", image.size).save(out, image.format)
    except PictureError:
        return content
    return out.getvalue()


class FaultyHub(Hub):
    """A Hub with faults; the greeting of a new socket bypasses it and is always sent."""

    def __init__(self, faults: Faults, clock: VirtualClock) -> None:
        super().__init__()
        self._faults = faults
        self._clock = clock
        self._sent = self._successes = 0
        self._due: deque[float] = deque()
        self._frames: WeakKeyDictionary[web.WebSocketResponse, int] = WeakKeyDictionary()

    def send(self, event: str, data: Any, sid: Any = None) -> None:
        self._sent += 1
        self._successes += event == "execution_success"
        if event == "execution_success" and self._faults.strikes("lost-event", self._successes):
            return
        super().send(event, data, sid)
        if self._faults.strikes("duplicate-event", self._sent):
            super().send(event, data, sid)

    def _put(self, message: str | bytes, sid: Any) -> None:
        self._due.append(self._clock.now() + self._faults.get("stalled-socket", 0))
        super()._put(message, sid)

    async def _deliver(self, message: str | bytes, sid: Any) -> None:
        await self._clock.until(self._due.popleft())
        await super()._deliver(message, sid)

    async def _write(self, socket: web.WebSocketResponse, message: str | bytes) -> None:
        frames = self._frames[socket] = self._frames.get(socket, 0) + 1
        if frames > self._faults.get("deaf-socket", math.inf):
            return
        await super()._write(socket, message)
        if frames >= self._faults.get("drop-socket", math.inf):
            await socket.close()
