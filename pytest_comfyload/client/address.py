"""A server's address and its credentials, which are registered as secrets whenever an address is created."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import unquote, urlencode, urlsplit, urlunsplit

from pytest_comfyload.errors import UsageError
from pytest_comfyload.redaction import hide_header, hide_url
from pytest_comfyload.user_paths import user_path

__all__ = ["ServerAddress", "parse_headers", "server_addresses", "without_credentials"]

# The value is restricted to printable ASCII: an HTTP library that rejects it would quote it in its error.
_HEADER = re.compile(r"^([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*:\s*([\t -~]*)$")


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Address of a server (`url`, without credentials), headers of each request, and limits of each exchange.

    `max_response`: bytes of a response; None: the default limit of each route. `deadline`: real seconds; None: the
    default. `query`, as given in the URL, is sent with each request; it may contain a gateway's token, and is therefore
    as secret as the headers.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    max_response: int | None = field(default=None, repr=False, compare=False)
    deadline: float | None = field(default=None, repr=False, compare=False)
    query: str = field(default="", repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, value in self.headers.items():
            hide_header(name, value)
        hide_url(f"?{self.query}")

    @classmethod
    def parse(cls, text: str, headers: Mapping[str, str] | None = None) -> ServerAddress:
        """Parse `http://[user:password@]host[:port][/prefix][?query]`. Raises: UsageError."""
        hide_url(text.strip())
        try:
            # A command line whose bytes are not UTF-8 contains surrogates, which cannot be sent.
            text.encode()
            parts = urlsplit(text.strip())
            host, port = parts.hostname, parts.port
        except ValueError as error:
            # urllib's message may quote the password.
            reason = "" if "@" in text else f" ({error})"
            raise UsageError(f"not a server URL: {without_credentials(text)!r}{reason}; {_LEGAL}") from None
        if parts.scheme not in ("http", "https") or not host:
            raise UsageError(f"not a server URL: {without_credentials(text)!r}; {_LEGAL}")
        if not _QUERY.fullmatch(parts.query):
            raise UsageError(f"{without_credentials(text)!r}: the query has illegal characters; percent-encode them")
        netloc = f"[{host}]" if ":" in host else host
        netloc += f":{port}" if port is not None else ""
        url = urlunsplit((parts.scheme, netloc, parts.path.rstrip("/"), "", ""))
        return cls(url, {**_basic_auth(parts.username, parts.password), **(headers or {})}, query=parts.query)

    def route(self, path: str, query: Mapping[str, str] | None = None) -> str:
        """Return the URL of a resource, without secrets."""
        return self.url + path + (f"?{urlencode(query)}" if query else "")

    def full_query(self, query: str) -> str:
        """Return the query of a request as it is sent."""
        return "&".join(filter(None, [self.query, query]))

    def socket_url(self, client_id: str) -> str:
        """Return the URL of the WebSocket, which may contain a secret."""
        return f"ws{self.url.removeprefix('http')}/ws?{self.full_query(urlencode({'clientId': client_id}))}"


_QUERY = re.compile(r"[!-~]*")
_LEGAL = "write it as http://host:port or https://host/prefix"


def parse_headers(lines: str, source: str) -> dict[str, str]:
    """Parse `Name: value` lines; blank lines and # comments are skipped. Raises: UsageError (without the value)."""
    headers = {}
    for number, line in enumerate(lines.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _HEADER.match(line.strip())
        if match is None:
            raise UsageError(f"{source}, line {number}: not a header; write each as `Name: value`, in ASCII")
        headers[match[1]] = match[2]
    return headers


def server_addresses(
    *groups: Sequence[str], header_files: Iterable[str] = (), header_lines: str = ""
) -> tuple[tuple[ServerAddress, ...], ...]:
    """Return each server of each group of URLs once, with the headers that it gets. Each file is read once.

    Args:
        groups: URLs; a header file may name a server of any group.
        header_files: `FILE` for every server, `URL=FILE` for one.
        header_lines: `Name: value` lines for every server, the value of COMFYUI_HEADERS.

    Raises: UsageError.
    """
    parsed = [{server.url: server for server in map(ServerAddress.parse, urls)} for urls in groups]
    headers: dict[str | None, dict[str, str]] = {None: parse_headers(header_lines, "COMFYUI_HEADERS")}
    for url, lines in map(_read_header_file, header_files):
        headers[url] = {**headers.get(url, {}), **lines}
    known = {url: None for servers in parsed for url in servers}
    if unknown := [url for url in headers if url is not None and url not in known]:
        raise UsageError(
            f"--comfyui-header-file names {unknown[0]}, which is not one of the servers: {', '.join(known)}"
        )
    return tuple(
        tuple(
            replace(server, headers={**server.headers, **headers[None], **headers.get(url, {})})
            for url, server in servers.items()
        )
        for servers in parsed
    )


def _read_header_file(argument: str) -> tuple[str | None, dict[str, str]]:
    """Return the URL of the server that the file is for (None: every server), and its headers."""
    url, path = None, argument
    if re.match(r"https?://", argument) and "?" in argument:
        raise UsageError(f"header file {without_credentials(argument)!r}: name the server without a query, URL=FILE")
    if re.match(r"https?://", argument) and "=" in argument:
        url, path = argument.rsplit("=", 1)
    try:
        text = user_path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"header file {without_credentials(path)!r} cannot be read: {reason}") from None
    return (ServerAddress.parse(url).url if url else None), parse_headers(text, path)


def _basic_auth(user: str | None, password: str | None) -> dict[str, str]:
    if user is None:
        return {}
    pair = f"{unquote(user)}:{unquote(password or '')}".encode()
    return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}


def without_credentials(text: str) -> str:
    """Hide possible secrets in a text that may be a URL: its query, and everything before the last @."""
    return re.sub(r"\?.*$", "?…", re.sub(r"^(\w+://)?.*@", r"\1…@", text, flags=re.DOTALL), flags=re.DOTALL)
