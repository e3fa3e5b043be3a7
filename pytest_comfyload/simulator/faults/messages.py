"""A hub that loses, repeats and delays messages, and sockets that go deaf or are dropped."""

from __future__ import annotations

import math
from collections import deque
from typing import Any
from weakref import WeakKeyDictionary

from aiohttp import web

from pytest_comfyload.simulator.clock import VirtualClock
from pytest_comfyload.simulator.events import Hub
from pytest_comfyload.simulator.faults.table import Faults

__all__ = ["FaultyHub"]


class FaultyHub(Hub):
    """A Hub; the greeting of a new socket does not pass through it and is always sent."""

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
