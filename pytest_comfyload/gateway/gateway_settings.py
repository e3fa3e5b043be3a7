"""Gateway settings, and how the user of a request is identified."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.errors import UsageError

__all__ = ["HIGHEST_PRIORITY", "Caller", "GatewaySettings", "caller_of", "parse_networks"]

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

HIGHEST_PRIORITY = 2
_LONGEST_NAME = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Settings of a gateway.

    `rate` is in prompts per second and user (None: unlimited); `stall` and `keep` are in seconds; `max_bytes` limits
    the total size of waiting prompts.
    """

    redis: str = field(repr=False)
    workers: tuple[ServerAddress, ...]
    host: str = "127.0.0.1"
    port: int = 8200
    max_waiting: int = 1000
    max_bytes: int = 256 * 2**20
    rate: float | None = None
    burst: int = 5
    proxies: tuple[Network, ...] = ()
    stall: float = 600.0
    keep: float = 3600.0
    shared_input: bool = False


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request: the name that owns its prompts and files, and its priority."""

    user: str
    priority: int = 0


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Parse networks such as `10.0.0.0/8`, or single addresses. Raises: UsageError."""
    networks = []
    for text in texts:
        try:
            networks.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise UsageError(f"--trusted-proxy {text}: {error}; give 172.18.0.0/16, or an address") from None
    return tuple(networks)


def caller_of(peer: str, headers: Mapping[str, str], query: Mapping[str, str], proxies: Sequence[Network]) -> Caller:
    """Identify the user of a request by a trusted proxy's header, else by API key or token, else by address.

    Keys are not verified: they only distinguish users. Authentication is the proxy's job.
    """
    is_trusted = _is_within(peer, proxies)
    priority = 0
    if is_trusted:
        priority = _priority(headers.get("X-Priority", ""))
        if name := headers.get("X-User", "").strip():
            return Caller(f"user-{name}" if len(name) <= _LONGEST_NAME else _hashed("user", name), priority)
    for key in (headers.get("Authorization"), headers.get("X-API-Key"), query.get("token")):
        if key:
            return Caller(_hashed("key", key), priority)
    address = peer
    if is_trusted and (forwarded := headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()):
        address = forwarded
    return Caller(f"address-{address[:_LONGEST_NAME]}", priority)


def _is_within(peer: str, networks: Sequence[Network]) -> bool:
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    return any(address in network for network in networks)


def _hashed(kind: str, secret: str) -> str:
    return f"{kind}-{hashlib.sha256(secret.encode('utf-8', 'surrogateescape')).hexdigest()[:20]}"


def _priority(text: str) -> int:
    try:
        return max(-HIGHEST_PRIORITY, min(HIGHEST_PRIORITY, int(text)))
    except ValueError:
        return 0
