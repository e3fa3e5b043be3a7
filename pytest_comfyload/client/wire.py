"""The wire under httpx: aiohttp's connections. They cost less than httpcore's, and none is lost by a cancellation.

A request goes out as httpx has built it, and what aiohttp raises comes back as httpx's own exceptions, of which
`server_error` makes ours.
"""

from __future__ import annotations

import errno
import functools
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Iterator

import aiohttp
import httpx
from yarl import URL

from pytest_comfyload.client.address import ServerAddress
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

# Seconds, with the look-up of the host's name.
CONNECT_TIMEOUT = 10.0
# Seconds after which an idle connection is not used again: many servers close theirs after some more.
KEEP_ALIVE = 5.0
# Bytes of one line of a response's head.
MAX_LINE = 100_000


@functools.cache
def tls_context() -> ssl.SSLContext:
    """Make one context for all users, since that takes 20 ms: the system's trust store, and SSL_CERT_FILE."""
    return ssl.create_default_context()


class _Harmless(logging.Filter):
    """Makes a record plain text without secrets: the libraries log what servers answer, headers and all."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = harmless(record.getMessage()), ()
        return True


_FILTER = _Harmless()
for _name in ("httpx", "aiohttp.client"):
    logging.getLogger(_name).addFilter(_FILTER)


class Wire(httpx.AsyncBaseTransport):
    """One user's connections to one server; the address's query is added here, below httpx, which logs its URLs."""

    def __init__(self, address: ServerAddress) -> None:
        self._address = address
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            answer = await self._opened().request(
                request.method,
                self._target(str(request.url)),
                headers=request.headers.multi_items(),
                data=await request.aread() or None,
                allow_redirects=False,
            )
        except aiohttp.ClientError as error:
            raise _httpx_error(error, request) from _cause(error)
        return httpx.Response(answer.status, headers=answer.raw_headers, stream=_Body(answer, request))

    def _target(self, url: str) -> URL:
        if self._address.query:
            path, _, query = url.partition("?")
            url = f"{path}?{self._address.full_query(query)}"
        return URL(url, encoded=True)

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        # Not before the first request: a session belongs to the loop that is running.
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    # Not for http: making a context is a twentieth of what a short load test costs.
                    ssl=tls_context() if self._address.url.startswith("https:") else True,
                    limit=0,
                    keepalive_timeout=KEEP_ALIVE,
                    resolver=aiohttp.ThreadedResolver(),
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT),
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
                auto_decompress=False,
                max_line_size=MAX_LINE,
                max_field_size=MAX_LINE,
            )
        return self._session


class _Body(httpx.AsyncByteStream):
    def __init__(self, answer: aiohttp.ClientResponse, request: httpx.Request) -> None:
        self._answer = answer
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._answer.content.iter_any():
                yield chunk
        except aiohttp.ClientError as error:
            raise _httpx_error(error, self._request) from _cause(error)

    async def aclose(self) -> None:
        # A connection whose response was not read to its end is closed.
        self._answer.release()


def _cause(error: aiohttp.ClientError) -> BaseException:
    """Return what the system said, where it did."""
    return error.__cause__ or error


def _httpx_error(error: aiohttp.ClientError, request: httpx.Request) -> Exception:
    match error:
        case aiohttp.ConnectionTimeoutError():
            return httpx.ConnectTimeout(str(error), request=request)
        case aiohttp.ClientConnectorError():
            return httpx.ConnectError(str(error), request=request)
        case aiohttp.InvalidURL():
            return httpx.InvalidURL(str(error))
        case aiohttp.ClientResponseError():
            # The first line; what the server sent follows it.
            return httpx.RemoteProtocolError(error.message.partition("\n")[0].rstrip(": "), request=request)
        case _:
            return httpx.ReadError(str(error), request=request)


def server_error(error: BaseException, url: str) -> ServerError | UsageError:
    """The most specific of our errors for what a socket or a library raised."""
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror):
            return HostNotFound(f"{url}: the host name does not resolve ({cause.strerror or cause})")
        if isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE):
            return ServerError(
                f"{url}: cannot connect: this machine lets no more files be opened, and each user takes two or more; "
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
