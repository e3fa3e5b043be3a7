"""A server's address and the credentials for it; what is secret can be sent, never printed, compared or stored."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlencode, urlsplit, urlunsplit

from pytest_comfyload.errors import UsageError

__all__ = ["ServerAddress", "parse_headers", "read_header_file"]

# The value is held to printable ASCII: an HTTP library that refuses it would quote it in its error.
_HEADER = re.compile(r"^([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*:\s*([\t -~]*)$")


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a server is (`url`, without credentials), the headers of each request, and the largest response in bytes.

    `max_response` None: the default limit of each route.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    max_response: int | None = field(default=None, repr=False, compare=False)

    @classmethod
    def parse(cls, text: str, headers: Mapping[str, str] | None = None) -> ServerAddress:
        """`http://[user:password@]host[:port][/prefix]`. Raises: UsageError."""
        try:
            parts = urlsplit(text.strip())
            host, port = parts.hostname, parts.port
        except ValueError as error:
            # What urllib says may quote the password.
            reason = "" if "@" in text else f" ({error})"
            raise UsageError(f"not a server URL: {_without_credentials(text)!r}{reason}; {_LEGAL}") from None
        if parts.scheme not in ("http", "https") or not host:
            raise UsageError(f"not a server URL: {_without_credentials(text)!r}; {_LEGAL}")
        netloc = f"[{host}]" if ":" in host else host
        netloc += f":{port}" if port is not None else ""
        url = urlunsplit((parts.scheme, netloc, parts.path.rstrip("/"), "", ""))
        return cls(url, {**_basic_auth(parts.username, parts.password), **(headers or {})})

    def route(self, path: str, query: Mapping[str, str] | None = None) -> str:
        return self.url + path + (f"?{urlencode(query)}" if query else "")

    def socket_url(self, client_id: str) -> str:
        return "ws" + self.route("/ws", {"clientId": client_id}).removeprefix("http")


_LEGAL = "write it as http://host:port or https://host/prefix"


def parse_headers(lines: str, source: str) -> dict[str, str]:
    """`Name: value` lines; blank lines and # comments are skipped. Raises: UsageError (without the value)."""
    headers = {}
    for number, line in enumerate(lines.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _HEADER.match(line.strip())
        if match is None:
            raise UsageError(f"{source}, line {number}: not a header; write each as `Name: value`, in ASCII")
        headers[match[1]] = match[2]
    return headers


def read_header_file(argument: str) -> tuple[str | None, dict[str, str]]:
    """`FILE` for every server, `URL=FILE` for one: the URL (or None) and the headers. Raises: UsageError."""
    url, path = None, argument
    if re.match(r"https?://", argument) and "=" in argument:
        url, path = argument.rsplit("=", 1)
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"header file {_without_credentials(path)!r} cannot be read: {reason}") from None
    return (ServerAddress.parse(url).url if url else None), parse_headers(text, path)


def _basic_auth(user: str | None, password: str | None) -> dict[str, str]:
    if user is None:
        return {}
    pair = f"{unquote(user)}:{unquote(password or '')}".encode()
    return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}


def _without_credentials(text: str) -> str:
    """All before the last @ but the scheme: in a malformed URL nobody can say where the password begins."""
    return re.sub(r"^(\w+://)?.*@", r"\1…@", text, flags=re.DOTALL)
