"""One user's WebSocket, read constantly: each frame is stamped with its arrival and handed on before anything else.

A ComfyUI server sends to its sockets in turn and waits for each, so that one client that does not read delays the
events of all: reading never waits for what is done with an event.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from pytest_comfyload.client.clock import Clock
from pytest_comfyload.client.transport import Transport, server_error
from pytest_comfyload.client.wire import tls_context
from pytest_comfyload.errors import Disconnected, LoginRequired, NotComfyUI, ServerError, ServerTimeout
from pytest_comfyload.protocol.messages import Event, Status, parse_frame

__all__ = ["EventSocket"]

# Seconds at most until the socket is open and has brought its first message.
OPEN_TIMEOUT = 10.0
# A preview of a large picture is one frame; the library's own limit of 1 MiB closes the socket on it.
MAX_FRAME = 64 * 1024 * 1024

# At its DEBUG level the library logs the handshake, with the query and the headers.
_LOGGER = logging.getLogger(f"{__name__}.websockets")
_LOGGER.setLevel(logging.INFO)


class _Connect(connect):
    """As HTTP does here, it follows no redirect: a login page is none of ours, and the headers are for one server."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class EventSocket:
    """The socket of one `client_id`: `on_event(event, arrival)` for every frame in order, `on_lost` if it closes."""

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
        self._reader: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        """Connect and wait for the server's first message: from then on no event is missed. Raises: ServerError."""
        self._connection = await self._connect()
        self._keep_cookies(self._connection)
        self._reader = asyncio.create_task(self._read(self._connection))
        try:
            async with asyncio.timeout(self._patience):
                await self._ready
        except TimeoutError:
            await self.aclose()
            url = self._transport.address.url
            raise NotComfyUI(f"{url}/ws opened, but sent no status; is this a ComfyUI server?") from None

    async def aclose(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
        if self._connection is not None:
            await self._connection.close()

    async def _connect(self) -> ClientConnection:
        address = self._transport.address
        url = address.socket_url(self._client_id)
        try:
            return await _Connect(
                url,
                additional_headers=self._transport.socket_headers(),
                ssl=tls_context() if url.startswith("wss:") else None,
                compression=None,
                max_size=MAX_FRAME,
                max_queue=None,
                proxy=None,
                logger=_LOGGER,
                open_timeout=self._patience,
                close_timeout=1,
            )
        except InvalidStatus as error:
            raise _refused(address.url, error.response.status_code) from None
        except (InvalidHandshake, InvalidURI) as error:
            raise NotComfyUI(f"{address.url}/ws is no WebSocket ({error})") from None
        except TimeoutError:
            raise ServerTimeout(f"{address.url}/ws: no answer in {self._patience:g} s") from None
        except (OSError, EOFError) as error:
            raise server_error(error, address.url) from None

    def _keep_cookies(self, connection: ClientConnection) -> None:
        # A balancer that pins users to workers may set its cookie on the socket; the POSTs must follow it.
        if connection.response is not None:
            self._transport.keep_cookies(connection.response.headers.get_all("Set-Cookie"))

    async def _read(self, connection: ClientConnection) -> None:
        try:
            async for frame in connection:
                arrival = self._clock.now()
                event = parse_frame(frame)
                if isinstance(event, Status) and not self._ready.done():
                    self._ready.set_result(None)
                self._on_event(event, arrival)
        except ConnectionClosed:
            pass
        lost = Disconnected(f"{self._transport.address.url}: the server closed the WebSocket")
        if not self._ready.done():
            self._ready.set_exception(lost)
        self._on_lost(lost)


def _refused(url: str, status: int) -> ServerError:
    if status in (401, 403) or 300 <= status < 400:
        return LoginRequired(f"{url} wants a login: the WebSocket answered {status}")
    return NotComfyUI(f"{url}/ws answered {status} where ComfyUI opens a WebSocket")
