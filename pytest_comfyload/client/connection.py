"""One HTTP/1.1 connection: it sends a request, reads the response as it arrives, and is then free for the next one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import httptools
import httpx

__all__ = ["Connection", "StaleConnection"]

# Maximum bytes of a response's head.
MAX_HEAD = 200_000
# Bytes of a body that are buffered until they are read; beyond that, the server has to wait.
MAX_HELD = 256 * 1024


class StaleConnection(httpx.ReadError):
    """The server closed the connection before any response; the connection may have been idle for too long."""


class Connection(asyncio.Protocol):
    """A connection that serves one request at a time.

    Args:
        on_free: Called when a response has been read completely and the connection can be reused.
    """

    def __init__(self, on_free: Callable[[Connection], None]) -> None:
        self.idle_since = 0.0
        self._on_free = on_free
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        # As lenient as browsers: servers and proxies are not always strict.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._body: _Body | None = None
        self._is_paused = False

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def exchange(self, request: httpx.Request, message: bytes) -> httpx.Response:
        """Send `message`, the request as bytes, and return the response, whose body may still be arriving.

        Raises: StaleConnection, httpx.ReadError, httpx.RemoteProtocolError.
        """
        body = self._body = _Body(self, request, self._loop)
        try:
            if self._transport is None:
                raise StaleConnection("the connection was closed", request=request)
            self._transport.write(message)
            await body.news()
        except BaseException:
            self.abort()
            raise
        return httpx.Response(body.status, headers=body.headers, stream=body)

    def release(self) -> None:
        """Become free for the next request if the server allows it and the response was read completely; else close."""
        body, self._body = self._body, None
        if body is None or not body.is_reusable or self._transport is None or self._transport.get_write_buffer_size():
            self.abort()
        else:
            self.resume()
            self.idle_since = self._loop.time()
            self._on_free(self)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def resume(self) -> None:
        """Resume reading, so that the server can continue to send."""
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()

    # --- asyncio's callbacks ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        body = self._body
        if body is None:
            # There is no request that this could be the response to.
            self.abort()
            return
        body.received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            reason = str(error) if body.headers else "Bad status line"
            body.fail(httpx.RemoteProtocolError(reason, request=body.request))
        if body.is_begun:
            body.tell()
        elif body.received > MAX_HEAD:
            body.fail(httpx.RemoteProtocolError(f"its head has more than {MAX_HEAD} bytes", request=body.request))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._body is not None:
            self._body.end(exc)

    # --- the parser's callbacks ---

    def on_message_begin(self) -> None:
        if self._body is not None and self._body.is_whole:
            # An unsolicited response begins.
            self._body.is_reusable = False
            raise _Superfluous

    def on_header(self, name: bytes, value: bytes) -> None:
        assert self._body is not None
        self._body.headers.append((name, value))

    def on_headers_complete(self) -> None:
        assert self._body is not None
        self._body.begin(self._parser.get_status_code())

    def on_body(self, data: bytes) -> None:
        assert self._body is not None
        if self._body.take(data) > MAX_HELD and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        assert self._body is not None
        if self._body.is_begun and not self._body.is_whole:
            self._body.is_whole = True
            self._body.is_reusable = self._parser.should_keep_alive()


class _Superfluous(Exception):
    """Superfluous data follows the response."""


class _Body(httpx.AsyncByteStream):
    """The response to a request: its head, and the pieces of its body that have not been read yet."""

    def __init__(self, connection: Connection, request: httpx.Request, loop: asyncio.AbstractEventLoop) -> None:
        self.request = request
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.received = 0
        self.is_begun = False
        self.is_whole = False
        self.is_reusable = False
        self._connection: Connection | None = connection
        self._loop = loop
        self._pieces: list[bytes] = []
        self._held = 0
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def news(self) -> None:
        """Wait until there is something to read: the whole response, or as much of its body as is buffered.

        Raises: StaleConnection, httpx.ReadError, httpx.RemoteProtocolError.
        """
        while not self._is_news:
            self._waiter = self._loop.create_future()
            await self._waiter
        if self._error is not None:
            raise self._error

    @property
    def _is_news(self) -> bool:
        return self.is_whole or self._error is not None or self._held > MAX_HELD

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            await self.news()
            pieces, self._pieces, self._held = self._pieces, [], 0
            for piece in pieces:
                yield piece
            if self.is_whole:
                return
            if self._connection is not None:
                self._connection.resume()

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()

    # --- called by the connection ---

    def begin(self, status: int) -> None:
        if 100 <= status < 200:
            # An interim response, which precedes the final one.
            self.headers.clear()
            return
        self.status, self.is_begun = status, True
        # The parser expects a body even after HEAD, but the connection need not be reusable.
        self.is_whole = self.request.method == "HEAD"

    def take(self, data: bytes) -> int:
        """Buffer a piece of the body; return the number of bytes that are now buffered."""
        if not self.is_whole:
            self._pieces.append(data)
            self._held += len(data)
        return self._held

    def fail(self, error: Exception) -> None:
        if not self.is_whole:
            self._error = self._error or error
        self.is_reusable = False
        self.tell()

    def end(self, exc: Exception | None) -> None:
        """Handle the closing of the connection, which is the end of a body without a length."""
        self.is_reusable = False
        names = {name.lower() for name, _ in self.headers}
        if self.is_begun and exc is None and not names & {b"content-length", b"transfer-encoding"}:
            self.is_whole = self.is_whole or self._error is None
        kind = httpx.ReadError if self.received else StaleConnection
        error = kind(str(exc or "the connection was closed"), request=self.request)
        error.__cause__ = exc
        self.fail(error)

    def tell(self) -> None:
        waiter = self._waiter
        if waiter is not None and self._is_news and not waiter.done():
            waiter.set_result(None)
