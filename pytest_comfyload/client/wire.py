"""The transport below httpx: connections that cost less than httpcore's, and that no cancellation leaks.

A request is sent as httpx has built it, and failures raise httpx's own exceptions, which `server_error` converts to
ours.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import socket
import ssl
from collections.abc import Callable, Iterator

import aiohappyeyeballs
import httpx

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.connection import Connection, StaleConnection
from pytest_comfyload.errors import (
    ConnectionRefused,
    Disconnected,
    HostNotFound,
    NotComfyUI,
    ServerError,
    ServerTimeout,
    TlsFailure,
    UsageError,
)
from pytest_comfyload.text import harmless

__all__ = ["Wire", "server_error", "tls_context"]

# Seconds, including the lookup of the host name.
CONNECT_TIMEOUT = 10.0
# Seconds after which an idle connection is not reused: many servers close theirs a little later.
KEEP_ALIVE = 5.0
# Seconds after which another address of the host is tried in parallel, if the first has not answered.
NEXT_ADDRESS = 0.25


@functools.cache
def tls_context() -> ssl.SSLContext:
    """Create one context for all users, since that takes 20 ms: the system's trust store, and SSL_CERT_FILE."""
    return ssl.create_default_context()


class _Harmless(logging.Filter):
    """Filter that turns records into plain text without secrets: the libraries log responses with their headers."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = harmless(record.getMessage()), ()
        return True


_FILTER = _Harmless()
logging.getLogger("httpx").addFilter(_FILTER)


class Wire(httpx.AsyncBaseTransport):
    """One user's connections to one server; the address's query is added here, below httpx, which logs its URLs."""

    def __init__(self, address: ServerAddress) -> None:
        self._address = address
        self._open: set[Connection] = set()
        self._idle: list[Connection] = []

    @property
    def in_use(self) -> int:
        """Number of connections with a request in progress."""
        return sum(each.is_open for each in self._open) - sum(each.is_open for each in self._idle)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        message = self._head(request) + await request.aread()
        idle = self._idle_connection()
        if idle is not None:
            try:
                return await idle.exchange(request, message)
            except StaleConnection:
                # Other requests must not be sent twice, since they may already have taken effect.
                if request.method not in ("GET", "HEAD"):
                    raise
        return await (await self._connected(request)).exchange(request, message)

    async def aclose(self) -> None:
        for connection in self._open:
            connection.abort()
        # The loop closes their sockets in its next iteration.
        await asyncio.sleep(0)

    def _head(self, request: httpx.Request) -> bytes:
        target = request.extensions.get("target") or request.url.raw_path
        if self._address.query:
            path, _, query = target.decode("ascii").partition("?")
            target = f"{path}?{self._address.full_query(query)}".encode("ascii")
        lines = [b"%b %b HTTP/1.1" % (request.method.encode("ascii"), target)]
        lines += [b"%b: %b" % header for header in request.headers.raw]
        return b"\r\n".join((*lines, b"\r\n"))

    def _idle_connection(self) -> Connection | None:
        """Return the connection used last, unless that was so long ago that the server may be about to close it."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and asyncio.get_running_loop().time() - connection.idle_since < KEEP_ALIVE:
                return connection
            connection.abort()
        return None

    async def _connected(self, request: httpx.Request) -> Connection:
        """Open a connection. Raises: httpx.ConnectError, httpx.ConnectTimeout, httpx.InvalidURL."""
        limit = asyncio.timeout(CONNECT_TIMEOUT)
        try:
            async with limit:
                connection = await _connect(request.url, self._idle.append)
        except OSError as error:
            kind = httpx.ConnectTimeout if limit.expired() else httpx.ConnectError
            raise kind(str(error), request=request) from error
        except ValueError as error:
            raise httpx.InvalidURL(str(error)) from None
        self._open = {each for each in self._open if each.is_open} | {connection}
        return connection


async def _connect(url: httpx.URL, on_free: Callable[[Connection], None]) -> Connection:
    """Connect to the first of the host's addresses that answers. Raises: OSError, ValueError."""
    loop, is_secure = asyncio.get_running_loop(), url.scheme == "https"
    port = url.port or (443 if is_secure else 80)
    host = url.raw_host.decode("ascii")
    try:
        # A numeric address needs no lookup, which would take a thread.
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    opened = await aiohappyeyeballs.start_connection(found, happy_eyeballs_delay=NEXT_ADDRESS)
    try:
        _, connection = await loop.create_connection(
            lambda: Connection(on_free),
            sock=opened,
            ssl=tls_context() if is_secure else None,
            server_hostname=host if is_secure else None,
        )
    except BaseException:
        opened.close()
        raise
    return connection


def server_error(error: BaseException, url: str) -> ServerError | UsageError:
    """Return the most specific of our errors for what a socket or a library raised."""
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror):
            return HostNotFound(f"{url}: the host name does not resolve ({cause.strerror or cause})")
        if isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE):
            return ServerError(
                f"{url}: cannot connect: too many open files, and each user takes two or more; "
                "raise the limit (`ulimit -n`) or use fewer users"
            )
        if isinstance(cause, ssl.SSLError):
            return TlsFailure(f"{url}: TLS failed ({_tls_reason(cause)})")
        if isinstance(cause, ConnectionRefusedError):
            return ConnectionRefused(f"{url}: connection refused; is ComfyUI running there?")
        if isinstance(cause, httpx.ConnectTimeout):
            return ServerTimeout(f"{url}: no connection within {CONNECT_TIMEOUT:g} s")
        if isinstance(cause, TimeoutError):
            return ServerTimeout(f"{url}: the connection timed out")
        if isinstance(cause, httpx.InvalidURL | httpx.UnsupportedProtocol | UnicodeError):
            return UsageError(f"not a server URL: {url!r} ({cause})")
    text = str(error) or type(error).__name__
    if isinstance(error, httpx.RemoteProtocolError):
        return NotComfyUI(f"{url}: the answer is not valid HTTP ({text[:100]}); is this a ComfyUI server?")
    if isinstance(error, httpx.ConnectError | OSError) and not isinstance(
        error, ConnectionResetError | BrokenPipeError
    ):
        return ServerError(f"{url}: cannot connect ({text})")
    return Disconnected(f"{url}: the server closed the connection before its answer was complete ({text})")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                yield from _causes(inner)
        error = error.__cause__ or error.__context__


def _tls_reason(error: ssl.SSLError) -> str:
    return getattr(error, "verify_message", "") or error.reason or str(error)
