"""The HTTP layer: it sends one user's requests, and converts every error of httpx to one of ours.

One httpx client per user keeps connections and cookies separate, as browsers would. `http_proxy` and `.netrc` are
ignored: the load must reach the server that was named.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.response_body import ACCEPT_ENCODING, MemoryShare, read_body
from pytest_comfyload.client.wire import Wire, server_error
from pytest_comfyload.errors import (
    HttpError,
    LoginRequired,
    NotComfyUI,
    ServerTimeout,
)
from pytest_comfyload.metrics.units import format_value
from pytest_comfyload.protocol.json_values import NotJson, parse_json, write_json
from pytest_comfyload.text import harmless

__all__ = ["DEADLINE", "Transport"]

# Seconds for a whole exchange, from the request's first byte to the response's last.
DEADLINE = 60.0
# Bytes of a decoded response: enough for /object_info, the largest JSON, which lists every model in every loader.
MAX_RESPONSE = 32 * 2**20
# URLs, without the server's address, that are sent as they are written.
_PLAIN = re.compile(r"[A-Za-z0-9/?&=%+._~,:-]*")
_KIND = {"Content-Type": "application/json"}


class Transport:
    """JSON and bytes over HTTP to one server, for one user.

    Args:
        deadline: Total seconds that one exchange may take.
    """

    def __init__(self, address: ServerAddress, *, deadline: float = DEADLINE) -> None:
        self.address = address
        self._deadline = deadline
        # Those of the exchanges in progress.
        self._deadlines: set[asyncio.Timeout] = set()
        self._wire = Wire(address)
        # Requests to copy, by method and whether there is content.
        self._prepared: dict[tuple[str, bool], httpx.Request] = {}
        self._http = httpx.AsyncClient(
            headers={"Accept-Encoding": ACCEPT_ENCODING, **address.headers},
            timeout=None,
            trust_env=False,
            transport=self._wire,
        )
        # The user's own Cookie header (a login) joins the server's cookies, since otherwise one would hide the other.
        own = self._http.headers.pop("Cookie", "")
        self.keep_cookies(f"{pair}; Path=/" for pair in own.split(";") if pair.strip())

    def keep_cookies(self, set_cookie: Iterable[str]) -> None:
        """Store the cookies of `Set-Cookie` lines that did not come with this transport's own responses."""
        lines = [("Set-Cookie", line) for line in set_cookie]
        if lines:
            request = httpx.Request("GET", self.address.route("/ws"))
            self._http.cookies.extract_cookies(httpx.Response(200, headers=lines, request=request))

    def socket_headers(self) -> dict[str, str]:
        """Return the user's own headers and the cookies so far, as the WebSocket's handshake must send them."""
        request = httpx.Request("GET", self.address.route("/ws"))
        self._http.cookies.set_cookie_header(request)
        cookies = request.headers.get("Cookie")
        headers = {name: value for name, value in self.address.headers.items() if name.lower() != "cookie"}
        return headers | ({"Cookie": cookies} if cookies else {})

    async def get_json(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """Return the JSON body of a GET. Raises: ServerError."""
        answer = await self._request("GET", path, query)
        self._expect_success(answer, f"GET {path}")
        return self._json(answer, f"GET {path}")

    async def get_bytes(
        self,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        deadline: float | None = None,
        limit: int = MAX_RESPONSE,
        share: MemoryShare | None = None,
    ) -> bytes:
        """Return a GET's body, counted in `share`; `deadline` is in seconds, `limit` in bytes. Raises: ServerError."""
        answer = await self._request("GET", path, query, deadline=deadline, limit=limit, share=share)
        self._expect_success(answer, f"GET {path}")
        return answer.body

    async def has(self, path: str, query: Mapping[str, str] | None = None) -> bool:
        """Return whether a GET would succeed, without its body. Raises: ServerError if there is no response at all."""
        return (await self._request("HEAD", path, query)).is_success

    async def post_json(self, path: str, body: object) -> tuple[int, Any]:
        """POST JSON; return the status, which is 400 or a success, and the JSON body. Raises: ServerError."""
        answer = await self._request("POST", path, content=write_json(body))
        if answer.status not in (200, 400):
            self._expect_success(answer, f"POST {path}")
        return answer.status, self._json(answer, f"POST {path}")

    async def raw(self, method: str, path: str, content: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers (names in lower case) and body, regardless of the status. Raises: ServerError."""
        answer = await self._request(method, path, content=content)
        return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.body

    async def post(self, path: str, body: object) -> None:
        """POST JSON to a route whose response has no body. Raises: ServerError."""
        answer = await self._request("POST", path, content=write_json(body))
        self._expect_success(answer, f"POST {path}")

    async def post_file(self, path: str, field: str, name: str, content: bytes, fields: Mapping[str, str]) -> Any:
        """POST a multipart form with one file in it; return the JSON response. Raises: ServerError."""
        answer = await self._request("POST", path, files={field: (name, content)}, data=dict(fields))
        self._expect_success(answer, f"POST {path}")
        return self._json(answer, f"POST {path}")

    async def aclose(self) -> None:
        """Abort the exchanges in progress, which end as if they had timed out."""
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
    ) -> _Answer:
        seconds = self._deadline if deadline is None else deadline
        most = self.address.max_response or limit
        try:
            request = self._built(method, self.address.route(path, query), content, **form)
            async with asyncio.timeout(seconds) as until:
                self._deadlines.add(until)
                try:
                    return await self._exchange(request, most, share)
                finally:
                    self._deadlines.discard(until)
        except TimeoutError:
            what = f"{self.address.url}: {method} {path}".rstrip()
            raise ServerTimeout(f"{what} was not answered completely within {format_value(seconds, 's')}") from None
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise server_error(error, self.address.url) from None

    def _built(self, method: str, url: str, content: bytes | None, **form: Any) -> httpx.Request:
        """Build a request, by copying an earlier one if they differ only in their target and content.

        Raises: httpx.InvalidURL.
        """
        target, has_content = url.removeprefix(self.address.url), content is not None
        if form or len(self._http.cookies.jar) or not _PLAIN.fullmatch(target):
            return self._http.build_request(method, url, content=content, headers=_KIND if has_content else {}, **form)
        if (method, has_content) not in self._prepared:
            self._prepared[method, has_content] = self._http.build_request(
                method, self.address.url, headers=_KIND if has_content else {}
            )
        like = self._prepared[method, has_content]
        headers = like.headers.copy()
        if content is not None:
            headers["Content-Length"] = str(len(content))
        return httpx.Request(
            method,
            like.url,
            headers=headers,
            stream=httpx.ByteStream(content or b""),
            extensions={"target": like.url.raw_path.rstrip(b"/") + target.encode("ascii")},
        )

    async def _exchange(self, request: httpx.Request, limit: int, share: MemoryShare | None) -> _Answer:
        """Send a request and read its whole response.

        It goes directly to the transport: the client's `send` would only add the handling of redirects and logins.
        """
        response = await self._wire.handle_async_request(request)
        try:
            body = await read_body(response, limit, self.address.url, share)
        finally:
            await response.aclose()
        if "set-cookie" in response.headers:
            response.request = request
            self._http.cookies.extract_cookies(response)
        return _Answer(response.status_code, response.headers, body)

    def _expect_success(self, answer: _Answer, what: str) -> None:
        status, url = answer.status, self.address.url
        if status in (401, 403) or 300 <= status < 400:
            goal = answer.headers.get("location", "")
            where = f" and points to {goal.split('?')[0]}" if goal else ""
            raise LoginRequired(f"{url} requires a login: {what} answered {status}{where}; {_GIVE_CREDENTIALS}")
        if not answer.is_success:
            text = answer.text.strip().splitlines()
            words = harmless(text[0], 200) if text else ""
            absent = status == 404 and what.endswith(_ALWAYS_THERE)
            hint = "; is this a ComfyUI server, and does its URL need a path prefix?" if absent else ""
            raise HttpError(f"{url}: {what} answered {status} {words}".rstrip() + hint, status)

    def _json(self, answer: _Answer, what: str) -> Any:
        try:
            return parse_json(answer.body)
        except NotJson as error:
            reason = str(error)
        kind = harmless(answer.headers.get("content-type", "no content type"), 80)
        url = self.address.url
        if "html" in kind and "password" in answer.text.lower():
            raise LoginRequired(f"{url} answered {what} with a login page; {_GIVE_CREDENTIALS}")
        body = "a body that is not" if "json" in kind else f"{kind} where ComfyUI sends"
        raise NotComfyUI(f"{url} answered {what} with {body} JSON: {reason}; is this a ComfyUI server?")


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


# Routes that every ComfyUI has; others may answer 404, for example for a missing picture.
_ALWAYS_THERE = ("/system_stats", "/object_info", "/prompt", "/queue", "/history")
_GIVE_CREDENTIALS = (
    "give credentials with COMFYUI_HEADERS (lines of `Name: value`), --comfyui-header-file, "
    "http://user:password@host or http://host?token=…"
)
