"""A gateway's connection to one worker: bounded requests, and a WebSocket that is read continuously."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

import aiohttp

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.errors import Disconnected, HttpError, NotComfyUI
from pytest_comfyload.protocol.events import Status
from pytest_comfyload.protocol.json_values import NotJson, as_dict, as_list, parse_json
from pytest_comfyload.protocol.messages import parse_frame

__all__ = ["WorkerLink"]

# Seconds: the timeouts of an exchange and of connecting, and the interval of WebSocket pings. A worker that is loading
# a model may not answer for some seconds.
EXCHANGE, CONNECT, PING = 30.0, 5.0, 30.0
# Timeout in seconds of a state query, which a worker answers from memory, and of opening the WebSocket.
LOOK_LIMIT = 10.0
# Maximum size in bytes of a JSON answer, and of a message.
MAX_JSON, MAX_FRAME = 64 * 2**20, 64 * 2**20
_CHUNK = 64 * 1024
# Maximum number of unprocessed messages: no ComfyUI sends more.
MAX_WAITING = 100_000
# Prefix of messages that carry only the number of prompts in the queue.
_STATUS = '{"type": "status"'


class WorkerLink:
    """The connection to a worker. `remaining` is the length of its queue as it last reported it."""

    def __init__(self, name: str, address: ServerAddress) -> None:
        self.name = name
        self.title = f"worker {name} ({address.url})"
        self.address = address
        self.remaining = 0
        self.changed = asyncio.Event()
        self.client_id = ""
        self._query = dict(parse_qsl(address.query))
        self._session: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reader: asyncio.Task[None] | None = None
        self._frames: asyncio.Queue[str | bytes | None] = asyncio.Queue(MAX_WAITING)

    # --- HTTP ---

    @property
    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=EXCHANGE, connect=CONNECT)
            self._session = aiohttp.ClientSession(headers=dict(self.address.headers), timeout=timeout)
        return self._session

    @contextlib.asynccontextmanager
    async def request(
        self, method: str, path: str, query: Mapping[str, str] | None = None, **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request, and yield the response. Raises: ServerError."""
        try:
            url = self.address.url + path
            # A worker's headers are for that worker only: no redirect may carry them elsewhere.
            async with self.session.request(
                method, url, params={**self._query, **(query or {})}, allow_redirects=False, **options
            ) as response:
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Disconnected(f"{self.title}: {method} {path}: {_reason(error)}") from None

    async def look(self, path: str) -> Any:
        """Return the JSON of a short answer, which must come within `LOOK_LIMIT`. Raises: ServerError."""
        return await self.get_json(path, timeout=aiohttp.ClientTimeout(total=LOOK_LIMIT, connect=CONNECT))

    async def get_json(self, path: str, query: Mapping[str, str] | None = None, **options: Any) -> Any:
        """Return the JSON answer to a GET request. Raises: ServerError."""
        status, body = await self.exchange("GET", path, query, **options)
        if status != 200:
            raise HttpError(f"{self.title}: GET {path} answered {status}", status)
        return self._parsed(path, body)

    async def post_json(self, path: str, body: object) -> tuple[int, Any]:
        """Return the status, and the JSON of the body, or None if it is not JSON. Raises: ServerError."""
        status, answer = await self.exchange("POST", path, json=body)
        with contextlib.suppress(NotComfyUI):
            return status, self._parsed(path, answer)
        return status, None

    async def exchange(
        self, method: str, path: str, query: Mapping[str, str] | None = None, **options: Any
    ) -> tuple[int, bytes]:
        """Send a request, and return the status and the body of the answer. Raises: ServerError."""
        async with self.request(method, path, query, **options) as response:
            body = bytearray()
            async for chunk in response.content.iter_chunked(_CHUNK):
                body += chunk
                if len(body) > MAX_JSON:
                    raise NotComfyUI(f"{self.title}: {method} {path} answered with more than {MAX_JSON} bytes")
            return response.status, bytes(body)

    async def history(self, prompt_id: str) -> Mapping[str, Any] | None:
        """Return the worker's history entry of a prompt, or None if it has not ended there. Raises: ServerError."""
        entry = as_dict(await self.look(f"/history/{prompt_id}")).get(prompt_id)
        return entry if isinstance(entry, dict) else None

    async def place_of(self, prompt_id: str) -> str:
        """Return a prompt's place in the queue: `running`, `pending`, `stuck` (pending, and nothing runs), or empty.

        Raises: ServerError.
        """
        queue = as_dict(await self.look("/queue"))
        running, pending = (
            [item[1] for item in as_list(queue.get(key)) if isinstance(item, list) and len(item) > 1]
            for key in ("queue_running", "queue_pending")
        )
        if prompt_id in running:
            return "running"
        return "" if prompt_id not in pending else "pending" if running else "stuck"

    async def drop(self, prompt_id: str) -> None:
        """Remove a prompt from the worker's queue, or interrupt it. Raises: ServerError."""
        await self.exchange("POST", "/queue", json={"delete": [prompt_id]})
        await self.interrupt(prompt_id)

    async def interrupt(self, prompt_id: str) -> None:
        """Interrupt a prompt, only if it is running: old servers interrupt whichever one runs. Raises: ServerError."""
        if await self.place_of(prompt_id) == "running":
            await self.exchange("POST", "/interrupt", json={"prompt_id": prompt_id})

    async def forget(self, prompt_id: str) -> None:
        """Delete a prompt from the worker's history. Raises: ServerError."""
        await self.exchange("POST", "/history", json={"delete": [prompt_id]})

    def _parsed(self, path: str, body: bytes) -> Any:
        try:
            return parse_json(body)
        except NotJson as error:
            raise NotComfyUI(f"{self.title}: {path} answered with what is not JSON: {error}") from None

    # --- the WebSocket ---

    @property
    def is_open(self) -> bool:
        return self._reader is not None and not self._reader.done()

    async def open(self, client_id: str) -> None:
        """Open the WebSocket under this client id, replacing any open one. Raises: ServerError."""
        await self.close_socket()
        try:
            async with asyncio.timeout(LOOK_LIMIT):
                self._socket = await self.session.ws_connect(
                    f"{self.address.url}/ws",
                    params={**self._query, "clientId": client_id},
                    compress=0,
                    max_msg_size=MAX_FRAME,
                    heartbeat=PING,
                )
                first = await self._socket.receive()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            await self.close_socket()
            raise Disconnected(f"{self.title}: /ws: {_reason(error)}") from None
        if first.type is not aiohttp.WSMsgType.TEXT:
            await self.close_socket()
            raise NotComfyUI(f"{self.title}: /ws sent no status; is this a ComfyUI server?")
        self.client_id = client_id
        self._frames = asyncio.Queue(MAX_WAITING)
        self._note_status(first.data)
        self._reader = asyncio.create_task(self._read(self._socket, self._frames))

    async def next_frames(self, seconds: float) -> Sequence[str | bytes]:
        """Wait up to `seconds` for a message, and return all that have arrived. Raises: Disconnected."""
        frames: list[str | bytes | None] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                frames.append(await self._frames.get())
        while not self._frames.empty():
            frames.append(self._frames.get_nowait())
        known = [each for each in frames if each is not None]
        if not known and None in frames:
            self._frames.put_nowait(None)
            raise Disconnected(f"{self.title}: the WebSocket was closed")
        if None in frames:
            self._frames.put_nowait(None)
        return known

    def skip_frames(self) -> None:
        """Discard the messages about earlier prompts."""
        while not self._frames.empty():
            if self._frames.get_nowait() is None:
                self._frames.put_nowait(None)
                return

    async def closed(self) -> None:
        """Wait until the worker closes the WebSocket."""
        if self._reader is not None:
            await asyncio.wait({self._reader})

    async def close_socket(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
            self._reader = None
        if self._socket is not None:
            # A dead worker does not answer the closing handshake.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await self._socket.close()
            self._socket = None

    async def aclose(self) -> None:
        await self.close_socket()
        if self._session is not None:
            await self._session.close()

    async def _read(self, socket: aiohttp.ClientWebSocketResponse, frames: asyncio.Queue[str | bytes | None]) -> None:
        try:
            async for message in socket:
                if message.type is aiohttp.WSMsgType.TEXT and message.data.startswith(_STATUS):
                    self._note_status(message.data)
                elif message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                    frames.put_nowait(message.data)
        except asyncio.QueueFull:
            pass
        finally:
            if frames.full():
                frames.get_nowait()
            frames.put_nowait(None)
            self.changed.set()

    def _note_status(self, text: str) -> None:
        event = parse_frame(text)
        if isinstance(event, Status):
            self.remaining = event.queue_remaining
            self.changed.set()


def _reason(error: Exception) -> str:
    """Return why a request failed, in words."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect ({error.os_error.strerror or error.os_error})"
    return "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
