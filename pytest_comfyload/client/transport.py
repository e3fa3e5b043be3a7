"""The HTTP seam: one user's requests go out here, and every error of httpx comes back as one of ours.

One httpx client per user keeps connections and cookies apart as browsers would. `http_proxy` and `.netrc` are not
obeyed: the load must reach the server that was named.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

import httpx

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.response_body import ACCEPT_ENCODING, MemoryShare, read_body
from pytest_comfyload.client.wire import CONNECT_TIMEOUT, Wire
from pytest_comfyload.errors import (
    ConnectionRefused,
    Disconnected,
    HostNotFound,
    HttpError,
    LoginRequired,
    NotComfyUI,
    ServerError,
    ServerTimeout,
    TlsFailure,
    UsageError,
)
from pytest_comfyload.protocol.messages import NotJson, parse_json
from pytest_comfyload.text import harmless

__all__ = ["DEADLINE", "Transport", "server_error"]

# Seconds for a whole exchange, from the request's first byte to the response's last.
DEADLINE = 60.0
# Bytes of a response, decoded: room for /object_info, the largest JSON, which lists each model in each loader.
MAX_RESPONSE = 32 * 2**20


class _Harmless(logging.Filter):
    """Makes a record plain text without secrets: the libraries log what servers answer, headers and all."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = harmless(record.getMessage()), ()
        return True


_FILTER = _Harmless()
for _name in ("httpx", "aiohttp.client"):
    logging.getLogger(_name).addFilter(_FILTER)


class Transport:
    """JSON and bytes over HTTP to one server, for one user.

    Args:
        deadline: Seconds that one exchange may take in all.
    """

    def __init__(self, address: ServerAddress, *, deadline: float = DEADLINE) -> None:
        self.address = address
        self._deadline = deadline
        # Of the exchanges that are under way.
        self._deadlines: set[asyncio.Timeout] = set()
        self._http = httpx.AsyncClient(
            headers={"Accept-Encoding": ACCEPT_ENCODING, **address.headers},
            timeout=None,
            trust_env=False,
            transport=Wire(address),
        )
        # A Cookie header of the user's own (a login) goes where the server's cookies go, or one would hide the other.
        own = self._http.headers.pop("Cookie", "")
        self.keep_cookies(f"{pair}; Path=/" for pair in own.split(";") if pair.strip())

    def keep_cookies(self, set_cookie: Iterable[str]) -> None:
        """Take in `Set-Cookie` lines that came by another way than this transport's own answers."""
        lines = [("Set-Cookie", line) for line in set_cookie]
        if lines:
            request = httpx.Request("GET", self.address.route("/ws"))
            self._http.cookies.extract_cookies(httpx.Response(200, headers=lines, request=request))

    def socket_headers(self) -> dict[str, str]:
        """The user's own headers and the cookies so far, as the WebSocket's handshake must send them."""
        request = httpx.Request("GET", self.address.route("/ws"))
        self._http.cookies.set_cookie_header(request)
        cookies = request.headers.get("Cookie")
        headers = {name: value for name, value in self.address.headers.items() if name.lower() != "cookie"}
        return headers | ({"Cookie": cookies} if cookies else {})

    async def get_json(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """Raises: ServerError."""
        response = await self._request("GET", path, query)
        self._expect_success(response, f"GET {path}")
        return self._json(response, f"GET {path}")

    async def get_bytes(
        self,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        deadline: float | None = None,
        limit: int = MAX_RESPONSE,
        share: MemoryShare | None = None,
    ) -> bytes:
        """The body of a GET; `deadline` in seconds, `limit` in bytes, counted in `share`, too. Raises: ServerError."""
        response = await self._request("GET", path, query, deadline=deadline, limit=limit, share=share)
        self._expect_success(response, f"GET {path}")
        return response.content

    async def has(self, path: str, query: Mapping[str, str] | None = None) -> bool:
        """Whether a GET would succeed, without its body. Raises: ServerError if there is no answer at all."""
        return (await self._request("HEAD", path, query)).is_success

    async def post_json(self, path: str, body: object) -> tuple[int, Any]:
        """The status and the JSON body, whatever the status under 500. Raises: ServerError."""
        response = await self._request("POST", path, content=json.dumps(body).encode())
        if response.status_code not in (200, 400):
            self._expect_success(response, f"POST {path}")
        return response.status_code, self._json(response, f"POST {path}")

    async def post(self, path: str, body: object) -> None:
        """A POST whose answer has no body. Raises: ServerError."""
        response = await self._request("POST", path, content=json.dumps(body).encode())
        self._expect_success(response, f"POST {path}")

    async def post_file(self, path: str, field: str, name: str, content: bytes, fields: Mapping[str, str]) -> Any:
        """A multipart form with one file in it; the JSON answer. Raises: ServerError."""
        response = await self._request("POST", path, files={field: (name, content)}, data=dict(fields))
        self._expect_success(response, f"POST {path}")
        return self._json(response, f"POST {path}")

    async def aclose(self) -> None:
        """Cut off what is under way: it ends as if its time were up."""
        for deadline in self._deadlines:
            if not deadline.expired():
                deadline.reschedule(asyncio.get_running_loop().time())
        await self._http.aclose()

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        content: bytes | None = None,
        *,
        deadline: float | None = None,
        limit: int = MAX_RESPONSE,
        share: MemoryShare | None = None,
        **form: Any,
    ) -> httpx.Response:
        headers = {"Content-Type": "application/json"} if content is not None else {}
        url = self.address.route(path, query)
        seconds = self._deadline if deadline is None else deadline
        most = self.address.max_response or limit
        try:
            request = self._http.build_request(method, url, content=content, headers=headers, **form)
            async with asyncio.timeout(seconds) as until:
                self._deadlines.add(until)
                try:
                    return await self._exchange(request, most, share)
                finally:
                    self._deadlines.discard(until)
        except TimeoutError:
            what = f"{self.address.url}: {method} {path}".rstrip()
            raise ServerTimeout(f"{what} was not answered completely within {seconds:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            _raise(error, self.address.url)

    async def _exchange(self, request: httpx.Request, limit: int, share: MemoryShare | None) -> httpx.Response:
        """Send a request, and read its whole response."""
        response = await self._http.send(request, stream=True)
        try:
            body = await read_body(response, limit, self.address.url, share)
        finally:
            await response.aclose()
        response.headers.pop("Content-Encoding", None)
        return httpx.Response(response.status_code, headers=response.headers, content=body)

    def _expect_success(self, response: httpx.Response, what: str) -> None:
        status, url = response.status_code, self.address.url
        if status in (401, 403) or (response.is_redirect and not response.is_success):
            goal = response.headers.get("location", "")
            where = f" and points to {goal.split('?')[0]}" if goal else ""
            raise LoginRequired(f"{url} wants a login: {what} answered {status}{where}; {_GIVE_CREDENTIALS}")
        if not response.is_success:
            text = response.text.strip().splitlines()
            words = harmless(text[0], 200) if text else ""
            raise HttpError(f"{url}: {what} answered {status} {words}".rstrip(), status)

    def _json(self, response: httpx.Response, what: str) -> Any:
        try:
            return parse_json(response.content)
        except NotJson as error:
            reason = str(error)
        kind = harmless(response.headers.get("content-type", "no content type"), 80)
        url = self.address.url
        if "html" in kind and "password" in response.text.lower():
            raise LoginRequired(f"{url} answered {what} with a login page; {_GIVE_CREDENTIALS}")
        body = "a body that is not" if "json" in kind else f"{kind} where ComfyUI sends"
        raise NotComfyUI(f"{url} answered {what} with {body} JSON: {reason}; is this a ComfyUI server?")


_GIVE_CREDENTIALS = (
    "give credentials by COMFYUI_HEADERS (lines of `Name: value`), --comfyui-header-file, "
    "http://user:password@host or http://host?token=…"
)


def _raise(error: Exception, url: str) -> NoReturn:
    raise server_error(error, url) from None


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
