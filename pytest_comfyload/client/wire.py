"""The wire under httpx: aiohttp's connections. They cost less than httpcore's, and none is lost by a cancellation.

A request goes out as httpx has built it, and what aiohttp raises comes back as httpx's own exceptions.
"""

from __future__ import annotations

import contextlib
import functools
import ssl
from collections.abc import AsyncIterator, Iterator

import aiohttp
import httpx
from yarl import URL

from pytest_comfyload.client.address import ServerAddress

__all__ = ["CONNECT_TIMEOUT", "Wire", "tls_context"]

# Seconds, with the look-up of the host's name.
CONNECT_TIMEOUT = 10.0
# Seconds after which an idle connection is not used again: many servers close theirs after some more.
KEEP_ALIVE = 5.0
# Bytes of one line of a response's head.
MAX_LINE = 100_000


@functools.cache
def tls_context() -> ssl.SSLContext:
    """One context for all users, since making one costs 20 ms: the system's trust store, and SSL_CERT_FILE."""
    return ssl.create_default_context()


class Wire(httpx.AsyncBaseTransport):
    """One user's connections to one server; the address's query is added here, below httpx, which logs its URLs."""

    def __init__(self, address: ServerAddress) -> None:
        self._address = address
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = str(request.url.copy_with(query=None))
        query = self._address.full_query(request.url.query.decode("ascii"))
        with _httpx_errors(request):
            answer = await self._opened().request(
                request.method,
                URL(f"{url}?{query}" if query else url, encoded=True),
                headers=request.headers.multi_items(),
                data=await request.aread() or None,
                allow_redirects=False,
            )
        return httpx.Response(answer.status, headers=answer.raw_headers, stream=_Body(answer, request))

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        # Not before the first request: a session belongs to the loop that is running.
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    ssl=tls_context(), limit=0, keepalive_timeout=KEEP_ALIVE, resolver=aiohttp.ThreadedResolver()
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
        with _httpx_errors(self._request):
            async for chunk in self._answer.content.iter_any():
                yield chunk

    async def aclose(self) -> None:
        # A connection whose response was not read to its end is closed.
        self._answer.release()


@contextlib.contextmanager
def _httpx_errors(request: httpx.Request) -> Iterator[None]:
    try:
        yield
    except aiohttp.ClientError as error:
        # The cause is what the system said, where it did.
        raise _httpx_error(error, request) from error.__cause__ or error


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
