"""WebSockets of clients: terminal events are delivered in order and replayed; progress is dropped for slow clients.

Everything that Redis publishes for a client goes to its sockets. Events that must arrive are also in the client's
stream, from which a socket catches up when it is opened, and after each loss of the connection to Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from aiohttp import ClientConnectionError, WSCloseCode, WSMsgType, web
from redis.exceptions import RedisError

from pytest_comfyload.gateway.gateway_metrics import GatewayMetrics
from pytest_comfyload.gateway.prompt_store import PromptStore
from pytest_comfyload.gateway.redis_calls import PREFIX, StoreUnavailable
from pytest_comfyload.gateway.rewriting import frame

__all__ = ["ClientSocket", "ClientSockets"]

NEWS = "news"
# Bytes queued for a slow client: above the first limit, previews and then progress messages are dropped; above the
# second, the socket is closed. Events are replayed when the client reconnects.
_FEW, _MANY = 1 * 2**20, 16 * 2**20
# Minimum seconds between two messages about the length of the queue.
_STATUS_PERIOD = 0.1
# Seconds of silence after which Redis is pinged.
_SILENCE = 5.0
# Seconds between two pings of a client.
_PING = 30.0


class ClientSocket:
    """One open WebSocket; `send` only queues."""

    def __init__(self, socket: web.WebSocketResponse, channel: str, last: str, metrics: GatewayMetrics) -> None:
        self.channel = channel
        self.last = last
        self._socket = socket
        self._metrics = metrics
        # Queued frames, each with its event id, which is empty if it is not an event.
        self._queue: deque[tuple[bytes, str]] = deque()
        self._size = 0
        self._more = asyncio.Event()
        self._is_closing = False
        # Events that arrive while earlier ones are being fetched, and the number of such fetches in progress.
        self._held: list[tuple[bytes, str]] = []
        self._holds = 0

    def hold(self) -> None:
        """Hold events back until `release`, so that earlier ones are sent first."""
        self._holds += 1

    def release(self, earlier: Iterable[tuple[str, bytes]]) -> None:
        """Send earlier events, then those that were held back."""
        for event, payload in earlier:
            self._send_event(payload, event)
        self._holds -= 1
        if self._holds == 0:
            held, self._held = self._held, []
            for payload, event in held:
                self._send_event(payload, event)

    def send(self, payload: bytes, event: str = "") -> None:
        """Queue a frame; `event` is the id of an event, which the client must get exactly once."""
        if event and self._holds:
            self._held.append((payload, event))
        elif event:
            self._send_event(payload, event)
        elif self._size <= _FEW or self._makes_room(payload):
            self._put(payload, "")
        else:
            self._metrics.dropped.inc()

    def _send_event(self, payload: bytes, event: str) -> None:
        if _order(event) > _order(self.last):
            self.last = event
            self._put(_with_event(payload, event), event)

    def _put(self, payload: bytes, event: str) -> None:
        self._queue.append((payload, event))
        self._size += len(payload)
        if self._size > _MANY and not self._is_closing:
            self._metrics.slow_clients.inc()
            self._is_closing = True
        self._more.set()

    def _makes_room(self, payload: bytes) -> bool:
        """Drop queued previews in favour of another frame; return False if that frame is to be dropped itself."""
        if _is_preview(payload):
            return False
        for waiting in [each for each in self._queue if _is_preview(each[0])]:
            self._queue.remove(waiting)
            self._size -= len(waiting[0])
            self._metrics.dropped.inc()
        return self._size <= _FEW

    async def write(self) -> None:
        """Send queued frames as fast as the client reads, until the socket is closed."""
        with contextlib.suppress(ClientConnectionError, ConnectionError, RuntimeError):
            while not self._is_closing:
                await self._more.wait()
                self._more.clear()
                await self._flush()
        await self._socket.close(code=WSCloseCode.TRY_AGAIN_LATER)

    async def close(self) -> None:
        await self._socket.close(code=WSCloseCode.GOING_AWAY)

    async def _flush(self) -> None:
        confirmed = ""
        while self._queue and not self._is_closing:
            payload, event = self._queue.popleft()
            self._size -= len(payload)
            if payload.startswith(b"{"):
                await self._socket.send_str(payload.decode())
            else:
                await self._socket.send_bytes(payload)
            confirmed = event or confirmed
        if confirmed:
            # The pong confirms that everything before it has arrived.
            await self._socket.ping(confirmed.encode())


class ClientSockets:
    """All client sockets of this gateway, and its Redis subscription.

    Args:
        on_news: Called when the queue has changed.
    """

    def __init__(self, store: PromptStore, metrics: GatewayMetrics, on_news: Callable[[], None]) -> None:
        self.remaining = 0
        self._store = store
        self._metrics = metrics
        self._on_news = on_news
        self._sockets: dict[str, set[ClientSocket]] = {}
        self._pubsub: Any = None
        self._status_due = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(
        self, request: web.Request, user: str, client: str, last: str, answer: Callable[[str], bytes]
    ) -> web.WebSocketResponse:
        """Serve one socket until it is closed.

        Args:
            last: The id of the event after which the client resumes; empty for the last one that it has confirmed.
            answer: Returns the reply to the client's first message; empty for none.
        """
        response = web.WebSocketResponse(compress=False, autoping=False, heartbeat=_PING, max_msg_size=2**20)
        await response.prepare(request)
        channel = f"client:{user}:{client}"
        socket = ClientSocket(response, channel, last, self._metrics)
        with contextlib.suppress(StoreUnavailable):
            self.remaining = await self._store.remaining()
        socket.send(frame("status", {"status": {"exec_info": {"queue_remaining": self.remaining}}, "sid": client}))
        writer = asyncio.create_task(socket.write())
        self._metrics.sockets.inc()
        try:
            await self._join(socket)
            await self._read(response, socket, answer)
        finally:
            self._metrics.sockets.dec()
            await self._leave(socket)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
        return response

    async def close(self) -> None:
        """Close all sockets; their clients reconnect to another gateway."""
        await asyncio.gather(*(each.close() for sockets in self._sockets.values() for each in sockets))

    async def _read(
        self, response: web.WebSocketResponse, socket: ClientSocket, answer: Callable[[str], bytes]
    ) -> None:
        is_first = True
        async for message in response:
            if message.type is WSMsgType.PING:
                await response.pong(message.data)
            elif message.type is WSMsgType.PONG and message.data:
                with contextlib.suppress(StoreUnavailable):
                    await self._store.confirm(socket.channel, bytes(message.data).decode("ascii", "replace"))
            elif message.type is WSMsgType.TEXT and is_first:
                is_first = False
                if said := answer(message.data):
                    socket.send(said)

    async def _join(self, socket: ClientSocket) -> None:
        """Subscribe to the client's channel. Earlier events are fetched once Redis confirms the subscription."""
        others = self._sockets.setdefault(socket.channel, set())
        others.add(socket)
        with contextlib.suppress(RedisError, OSError):
            if self._pubsub is not None:
                await self._pubsub.subscribe(PREFIX + socket.channel)

    async def _leave(self, socket: ClientSocket) -> None:
        others = self._sockets.get(socket.channel, set())
        others.discard(socket)
        if not others and self._sockets.pop(socket.channel, None) is not None:
            with contextlib.suppress(RedisError, OSError):
                if self._pubsub is not None:
                    await self._pubsub.unsubscribe(PREFIX + socket.channel)

    async def _catch_up(self, socket: ClientSocket) -> None:
        """Send the events from before the subscription; newer ones are held back meanwhile."""
        while True:
            try:
                socket.last = socket.last or await self._store.cursor(socket.channel)
                earlier = await self._store.events(socket.channel, socket.last)
                break
            except StoreUnavailable:
                await asyncio.sleep(0.5)
        socket.release(earlier)

    # --- Redis ---

    async def listen(self) -> None:
        """Pass on what Redis publishes, until cancelled."""
        while True:
            pubsub = self._store.redis.pubsub()
            try:
                with contextlib.suppress(RedisError, OSError, StoreUnavailable):
                    await pubsub.subscribe(PREFIX + NEWS)
                    self._pubsub = pubsub
                    for channel in tuple(self._sockets):
                        await pubsub.subscribe(PREFIX + channel)
                    self._note_change()
                    silences = 0
                    while silences < 2:
                        message = await pubsub.get_message(timeout=_SILENCE)
                        silences = silences + 1 if message is None else 0
                        if message is None:
                            await pubsub.ping()
                        elif message["channel"] is not None:
                            channel = message["channel"].decode().removeprefix(PREFIX)
                            self._receive(message["type"], channel, message["data"])
            finally:
                self._pubsub = None
                with contextlib.suppress(RedisError, OSError):
                    await pubsub.aclose()
            await asyncio.sleep(0.2)

    def _receive(self, kind: str, channel: str, payload: bytes) -> None:
        sockets = tuple(self._sockets.get(channel, ()))
        if kind == "subscribe":
            for socket in sockets:
                socket.hold()
                task = asyncio.create_task(self._catch_up(socket))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        elif kind == "message" and channel == NEWS:
            self._note_change()
        elif kind == "message":
            event, _, said = payload.partition(b"|")
            for socket in sockets:
                socket.send(said, event.decode())

    def _note_change(self) -> None:
        self._status_due.set()
        self._on_news()

    async def tell_status(self) -> None:
        """Send all sockets the length of the queue whenever it has changed, until cancelled.

        Some clients take an empty queue for the end of their prompt, so no socket gets a length from before it was
        opened.
        """
        while True:
            await self._status_due.wait()
            self._status_due.clear()
            there = [each for sockets in self._sockets.values() for each in sockets]
            with contextlib.suppress(StoreUnavailable):
                self.remaining = await self._store.remaining()
                told = frame("status", {"status": {"exec_info": {"queue_remaining": self.remaining}}})
                for socket in there:
                    socket.send(told)
            await asyncio.sleep(_STATUS_PERIOD)


def _is_preview(payload: bytes) -> bool:
    return not payload.startswith(b"{")


def _order(event: str) -> tuple[int, int]:
    """Return the sort key of a stream id, which consists of milliseconds and a number."""
    stamp, _, number = event.partition("-")
    try:
        return int(stamp), int(number or 0)
    except ValueError:
        return 0, 0


def _with_event(payload: bytes, event: str) -> bytes:
    """Return the message with the event's id in its data: a client that reconnects can name the last event it saw."""
    return payload[:-2] + b', "event_id": "' + event.encode() + b'"}}' if payload.endswith(b"}}") else payload
