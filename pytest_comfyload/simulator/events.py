"""Delivery of messages: one socket per client id, the newest, and all messages in the order in which they were sent."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any

from aiohttp import ClientConnectionError, web

__all__ = ["Hub"]

_PREVIEW, _PREVIEW_WITH_METADATA = 1, 4
_JPEG, _PNG = 1, 2


class Hub:
    """The sockets of a server. Sending only queues; one publisher writes to the sockets in turn, as ComfyUI does.

    Therefore a client that stops reading blocks all others, and a socket that closes also removes a newer one of the
    same client id. Both are faults of the real server that clients must survive.
    """

    def __init__(self) -> None:
        self._sockets: dict[str, web.WebSocketResponse] = {}
        self._flags: dict[str, dict[str, Any]] = {}
        self._outbox: asyncio.Queue[tuple[str | bytes, str | None]] = asyncio.Queue()

    def join(self, sid: str, socket: web.WebSocketResponse) -> None:
        self._sockets[sid] = socket
        self._flags[sid] = {}

    def leave(self, sid: str) -> None:
        self._sockets.pop(sid, None)
        self._flags.pop(sid, None)

    def set_flags(self, sid: str, flags: dict[str, Any]) -> None:
        """Store the feature flags of a client."""
        self._flags[sid] = flags

    def takes_metadata(self, sid: Any) -> bool:
        """Return whether previews for this client carry metadata."""
        return bool(self._flags.get(sid, {}).get("supports_preview_metadata", False))

    def send(self, event: str, data: Any, sid: Any = None) -> None:
        """Queue an event for one client, or for all clients if `sid` is None."""
        self._put(json.dumps({"type": event, "data": data}), sid)

    def send_preview(self, jpeg: bytes, sid: Any) -> None:
        self._put(struct.pack(">II", _PREVIEW, _JPEG) + jpeg, sid)

    def send_png(self, png: bytes, sid: Any) -> None:
        self._put(struct.pack(">II", _PREVIEW, _PNG) + png, sid)

    def send_preview_with_metadata(self, jpeg: bytes, metadata: dict[str, Any], sid: Any) -> None:
        head = json.dumps(metadata | {"image_type": "image/jpeg"}).encode()
        self._put(struct.pack(">II", _PREVIEW_WITH_METADATA, len(head)) + head + jpeg, sid)

    async def publish(self) -> None:
        """Send queued messages until cancelled."""
        while True:
            await self._deliver(*await self._outbox.get())

    async def close(self) -> None:
        """Close every socket, as a server does when it stops."""
        await asyncio.gather(*(socket.close() for socket in self._sockets.values()))

    def _put(self, message: str | bytes, sid: Any) -> None:
        self._outbox.put_nowait((message, sid))

    async def _deliver(self, message: str | bytes, sid: Any) -> None:
        sockets = list(self._sockets.values()) if sid is None else [self._sockets.get(sid)]
        for socket in sockets:
            if socket is not None:
                await self._write(socket, message)

    async def _write(self, socket: web.WebSocketResponse, message: str | bytes) -> None:
        try:
            if isinstance(message, str):
                await socket.send_str(message)
            else:
                await socket.send_bytes(message)
        except (ClientConnectionError, ConnectionError, RuntimeError):
            pass  # the client disconnected; its own handler removes the socket
