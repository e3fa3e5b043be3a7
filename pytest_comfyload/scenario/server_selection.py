"""Selection of the named servers that a load uses: all, a number of free ones, or some by URL or index.

The marker is parsed at collection, but the servers are only known when the load begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from pytest_comfyload.errors import UsageError, nearest

__all__ = ["ALL_SERVERS", "ServerChoice"]

_LEGAL = "write 'all', how many, a URL of --comfyui-url, or a list of URLs or of places in their order, from 0"
_MORE = "name more by repeating --comfyui-url"


@dataclass(frozen=True, slots=True)
class ServerChoice:
    """A choice of servers: `first` is a number of free servers, `picked` are URLs or indices from 0; neither: all."""

    first: int | None = None
    picked: tuple[str | int, ...] = ()

    @classmethod
    def parse(cls, value: object) -> ServerChoice:
        """Parse the marker's `servers`. Raises: UsageError."""
        if value == "all":
            return ALL_SERVERS
        if isinstance(value, int) and not isinstance(value, bool):
            if value < 1:
                raise UsageError(f"servers={value} is not a number of servers; {_LEGAL}")
            return cls(first=value)
        listed = value if isinstance(value, list | tuple) and value else [value]
        return cls(picked=tuple(map(_one, listed)))

    @property
    def least(self) -> int:
        """The minimum number of servers required."""
        return max([self.first or 1, *(each + 1 for each in self.picked if isinstance(each, int))])

    def of(self, urls: Sequence[str], free: Sequence[int] | None = None) -> tuple[int, ...]:
        """Return the indices of the chosen servers.

        Args:
            urls: The URLs of all named servers.
            free: Indices of the free servers, from which `first` are taken; None means all are free.

        Raises:
            UsageError: A chosen server is not among `urls`.
        """
        if self.least > len(urls):
            asked = f"servers={self.first}" if self.first else f"servers={list(self.picked)}"
            raise UsageError(f"{asked} needs {self.least} servers, and there is only {', '.join(urls)}; {_MORE}")
        if self.first is not None:
            return tuple((range(len(urls)) if free is None else free)[: self.first])
        if not self.picked:
            return tuple(range(len(urls)))
        return tuple(sorted({each if isinstance(each, int) else _place(each, urls) for each in self.picked}))


ALL_SERVERS = ServerChoice()


def _one(value: object) -> str | int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    try:
        return _without_credentials(str(value))
    except ValueError:
        # Text that is not a URL may still contain a password.
        shown = value.rpartition("@")[2] if isinstance(value, str) else value
        raise UsageError(f"servers: {shown!r} is not one of the servers; {_LEGAL}") from None


def _without_credentials(url: str) -> str:
    """Return the URL in the form used in results, without credentials. Raises: ValueError."""
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2].lower(), parts.path.rstrip("/"), "", ""))


def _place(url: str, urls: Sequence[str]) -> int:
    if url not in urls:
        raise UsageError(
            f"servers: {url} is not one of the servers of this run; legal: {nearest(url, urls)}; "
            f"add --comfyui-url {url}"
        )
    return urls.index(url)
