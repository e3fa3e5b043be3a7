"""One user's WebSocket, read constantly: each message is stamped with its arrival and passed on at once.

A ComfyUI server sends to its sockets in turn and waits for each, so that one client that does not read delays the
events of all. Therefore, reading never waits for the processing of an event.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any, cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.frames import DATA_OPCODES, CloseCode, Frame, Opcode
from websockets.protocol import State

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.clock import Clock
from pytest_comfyload.client.transport import Transport
from pytest_comfyload.client.wire import server_error, tls_context
from pytest_comfyload.errors import Disconnected, LoginRequired, NotComfyUI, ServerError, ServerTimeout
from pytest_comfyload.metrics.units import format_value
from pytest_comfyload.protocol.events import Event, Status
from pytest_comfyload.protocol.messages import STATUS_BEGIN, STATUS_END, parse_frame

__all__ = ["EventSocket", "follow_queue"]

# Maximum seconds until the socket is open and has received its first message.
OPEN_TIMEOUT = 10.0
# A preview of a large picture is one frame; with the library's own limit of 1 MiB, it would close the socket.
MAX_FRAME = 64 * 1024 * 1024
# Maximum characters of a status message, and prompts in a queue: anything larger is ignored.
_LONGEST_STATUS, _LONGEST_QUEUE = 4096, 10**6

# At DEBUG level, the library logs the handshake with the query and the headers.
_LOGGER = logging.getLogger(f"{__name__}.websockets")
_LOGGER.setLevel(logging.INFO)


class _Connect(connect):
    """Like our HTTP, it follows no redirects: a login page is not ComfyUI, and the headers are for one server only."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class EventSocket:
    """Socket of one `client_id`; calls `on_event(event, arrival)` for each message in order, `on_lost` if it closes."""

    def __init__(
        self,
        transport: Transport,
        client_id: str,
        clock: Clock,
        on_event: Callable[[Event, float], None],
        on_lost: Callable[[Disconnected], None],
        patience: float = OPEN_TIMEOUT,
    ) -> None:
        self._transport = transport
        self._client_id = client_id
        self._clock = clock
        self._on_event = on_event
        self._on_lost = on_lost
        self._patience = min(OPEN_TIMEOUT, patience)
        self._connection: ClientConnection | None = None
        self._closing = False
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        """Connect and wait for the server's first message, after which no event is missed. Raises: ServerError."""
        self._connection = await self._connect()
        self._keep_cookies(self._connection)
        try:
            async with asyncio.timeout(self._patience):
                await self._ready
        except TimeoutError:
            await self.aclose()
            url = self._transport.address.url
            raise NotComfyUI(f"{url}/ws opened, but sent no status; is this a ComfyUI server?") from None

    async def aclose(self) -> None:
        self._closing = True
        if self._connection is not None:
            await self._connection.close()

    async def _connect(self) -> ClientConnection:
        return await _open(
            self._transport.address,
            self._client_id,
            self._transport.socket_headers(),
            self._patience,
            create_connection=cast(type[ClientConnection], functools.partial(_Connection, self)),
        )

    def _keep_cookies(self, connection: ClientConnection) -> None:
        # A load balancer with sticky sessions may set its cookie on the WebSocket; the POSTs must send it, too.
        if connection.response is not None:
            self._transport.keep_cookies(connection.response.headers.get_all("Set-Cookie"))

    def receive(self, message: str | bytes) -> None:
        """Handle one message, text or binary."""
        arrival = self._clock.now()
        self._take(parse_frame(message), arrival)

    def receive_status(self, queue_remaining: int) -> None:
        self._take(Status(queue_remaining, None), self._clock.now())

    def lose(self) -> None:
        """Handle the closing of the connection."""
        lost = Disconnected(f"{self._transport.address.url}: the server closed the WebSocket")
        if not self._ready.done():
            self._ready.set_exception(lost)
            # If the handshake has failed, nothing awaits the future, so its exception is retrieved here.
            self._ready.exception()
        if not self._closing:
            self._on_lost(lost)

    def _take(self, event: Event, arrival: float) -> None:
        if isinstance(event, Status) and not self._ready.done():
            self._ready.set_result(None)
        if not self._closing:
            self._on_event(event, arrival)


async def follow_queue(
    address: ServerAddress, on_change: Callable[[int], None], patience: float = OPEN_TIMEOUT
) -> None:
    """Read a socket with its own client id until the server closes it, calling `on_change` with each queue length.

    Raises: ServerError; Disconnected when the server has closed the socket.
    """
    connection = await _open(address, uuid.uuid4().hex, address.headers, min(OPEN_TIMEOUT, patience))
    try:
        with contextlib.suppress(ConnectionClosed):
            async for message in connection:
                # Nearly all other messages are previews and progress of prompts that were sent without a client id.
                if isinstance(message, str) and len(message) <= _LONGEST_STATUS:
                    event = parse_frame(message)
                    if isinstance(event, Status) and 0 <= event.queue_remaining <= _LONGEST_QUEUE:
                        on_change(event.queue_remaining)
    finally:
        await connection.close()
    raise Disconnected(f"{address.url}: the server closed the WebSocket")


async def _open(
    address: ServerAddress, client_id: str, headers: Mapping[str, str], patience: float, **options: Any
) -> ClientConnection:
    """Connect to the WebSocket of a server. Raises: ServerError."""
    url = address.socket_url(client_id)
    try:
        return await _Connect(
            url,
            additional_headers=headers,
            ssl=tls_context() if url.startswith("wss:") else None,
            compression=None,
            max_size=MAX_FRAME,
            max_queue=None,
            proxy=None,
            logger=_LOGGER,
            open_timeout=patience,
            close_timeout=1,
            **options,
        )
    except InvalidStatus as error:
        raise _refused(address.url, error.response.status_code) from None
    except (InvalidHandshake, InvalidURI) as error:
        raise NotComfyUI(f"{address.url}/ws is not a WebSocket ({error})") from None
    except TimeoutError:
        raise ServerTimeout(f"{address.url}/ws: no answer in {format_value(patience, 's')}") from None
    except (OSError, EOFError) as error:
        raise server_error(error, address.url) from None


class _Connection(ClientConnection):
    """The library's connection, with a fast path for what servers send most: unfragmented messages.

    They are passed on as soon as the data is received. The library handles the handshake, pings, fragments, closing and
    protocol violations; it is given whole frames, so that this class knows where each one begins.
    """

    def __init__(self, events: EventSocket, protocol: ClientProtocol, **options: Any) -> None:
        super().__init__(protocol, **options)
        self._events = events
        self._last_of_head = b""
        # An incomplete frame, and the number of bytes that it must have before it is examined again.
        self._begun = bytearray()
        self._needed = 0
        self._fragments: list[Frame] = []

    def data_received(self, data: bytes) -> None:
        if self.response is None:
            data = self._shake_hands(data)
        if self._begun:
            self._begun += data
            if len(self._begun) < self._needed and self.protocol.state is State.OPEN:
                return
            data, self._begun = bytes(self._begun), bytearray()
        self._begun += data[self._read_frames(data) :]

    def process_event(self, event: Any) -> None:
        if not isinstance(event, Frame) or event.opcode not in DATA_OPCODES:
            super().process_event(event)
            return
        if event.data or not self._fragments:
            self._fragments.append(event)
        if event.fin:
            frames, self._fragments = self._fragments, []
            self._hand_on(b"".join(frame.data for frame in frames), frames[0].opcode is Opcode.TEXT)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._events.lose()

    def _shake_hands(self, data: bytes) -> bytes:
        """Pass the response's head to the library; return the data that follows it."""
        seen = self._last_of_head + data
        end = seen.find(_END_OF_HEAD)
        length = len(data) if end < 0 else end + len(_END_OF_HEAD) - len(self._last_of_head)
        self._last_of_head = seen[1 - len(_END_OF_HEAD) :]
        super().data_received(data[:length])
        return data[length:]

    def _read_frames(self, data: bytes) -> int:
        """Pass on all complete messages; return the number of bytes of `data` that have been consumed."""
        at, size = 0, len(data)
        while at < size and self.protocol.state is State.OPEN:
            if statuses := _STATUSES.match(data, at):
                at = statuses.end()
                self._events.receive_status(int(data[data.rindex(b" ", 0, at) + 1 : at - len(STATUS_END)]))
                continue
            body, end = _extent(data, at)
            if end - body > MAX_FRAME:
                break
            if end > size:
                self._needed = end - at
                return at
            if data[at] in _WHOLE and not self._fragments:
                self._hand_on(data[body:end], data[at] == _WHOLE_TEXT)
            else:
                super().data_received(data[at:end])
            at = end
        if at < size:
            super().data_received(data[at:])
        return size

    def _hand_on(self, message: bytes, is_text: bool) -> None:
        try:
            self._events.receive(message.decode() if is_text else message)
        except UnicodeDecodeError:
            self.protocol.fail(CloseCode.INVALID_DATA)
            self.send_data()
            self.transport.close()


# First bytes of frames that are a whole text or binary message.
_WHOLE_TEXT, _WHOLE = 0x81, (0x81, 0x82)
_END_OF_HEAD = b"\r\n\r\n"
# Consecutive status messages, of which only the last one counts: each socket receives those of all prompts.
_STATUSES = re.compile(
    b"(?:%b)+"
    % b"|".join(
        re.escape(bytes([_WHOLE_TEXT, len(STATUS_BEGIN) + digits + len(STATUS_END)]) + STATUS_BEGIN)
        + rb"\d{%d}" % digits
        + re.escape(STATUS_END)
        for digits in range(1, 7)
    )
)


def _extent(data: bytes, at: int) -> tuple[int, int]:
    """Return where the body of the frame at `at` begins and ends; beyond the data if its head is incomplete.

    A masked frame, which no server may send, is given an illegal length.
    """
    if len(data) < at + 2:
        return at + 2, at + 2
    length = data[at + 1]
    if length < 126:
        return at + 2, at + 2 + length
    if length > 127:
        return at, at + MAX_FRAME + 1
    body = at + (4 if length == 126 else 10)
    if len(data) < body:
        return body, body
    return body, body + int.from_bytes(data[at + 2 : body])


def _refused(url: str, status: int) -> ServerError:
    if status in (401, 403) or 300 <= status < 400:
        return LoginRequired(f"{url} requires a login: the WebSocket answered {status}")
    return NotComfyUI(f"{url}/ws answered {status} where ComfyUI opens a WebSocket")
