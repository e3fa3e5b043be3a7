"""The parts of a rendered deployment, declared once: its values with their checks, its services, its images."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Literal

from pytest_comfyload.errors import UsageError, nearest

__all__ = ["COOKIE", "IMAGES", "MOST_GPUS", "RenderTarget", "Stack", "StackService", "parse_addresses"]

RenderTarget = Literal["compose", "kubernetes"]

# Versions, not digests: only a registry knows the digest of a tag. For reproducible builds,
# `docker buildx imagetools inspect` prints it.
IMAGES: Mapping[str, str] = {
    "nginx": "nginx:1.28.0",
    "redis": "redis:7.4.2",
    "prometheus": "prom/prometheus:v2.53.3",
    "alertmanager": "prom/alertmanager:v0.27.0",
    "grafana": "grafana/grafana:11.4.0",
    "python": "python:3.13.1-slim-bookworm",
    "pytorch": "pytorch/pytorch:2.7.1-cuda12.6-cudnn9-runtime",
}
COMFYUI_VERSION = "0.3.75"
# The cookie by which nginx distinguishes browsers behind one address.
COOKIE = "comfyload_user"
MOST_GPUS = 64
_MOST_RATE, _MOST_UPLOAD = 100_000, 10_000

_DOMAIN = re.compile(r"(?=.{4,253}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}", re.IGNORECASE)
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,39}\]")


@dataclass(frozen=True, slots=True)
class StackService:
    """One service of the stack: the address at which the others reach it, and whether it runs elsewhere."""

    name: str
    address: str
    elsewhere: bool = False

    @property
    def gpu(self) -> int:
        """The number of a worker's GPU, which is in its name."""
        return int(self.name.rpartition("-")[2])

    @property
    def port(self) -> str:
        return self.address.rpartition(":")[2]

    @property
    def url(self) -> str:
        return f"http://{self.address}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The values of one deployment. Raises UsageError for an illegal value.

    Args:
        gpus: Number of ComfyUI workers, one on each GPU.
        queue: Whether prompts wait in Redis, behind `comfyload gateway`, instead of in a worker's memory.
        domain: The public name; it adds TLS and a password.
        rate: Maximum prompts per minute of one user.
        upload: Maximum size of a request's body in megabytes.
        addresses: `host:port` of each service that runs elsewhere, by name; of nginx, the address on which it listens.
    """

    gpus: int = 1
    queue: bool = False
    domain: str = ""
    rate: int = 60
    upload: int = 100
    addresses: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _within("--gpus", self.gpus, MOST_GPUS)
        _within("--rate", self.rate, _MOST_RATE)
        _within("--upload", self.upload, _MOST_UPLOAD)
        if self.domain and not _DOMAIN.fullmatch(self.domain):
            raise UsageError(f"--domain {self.domain!r} is not a domain name; give one such as comfy.example.org")
        names = self._defaults()
        for name, address in self.addresses.items():
            if name not in names:
                raise UsageError(f"--address {name}=…: there is no such service; choose one of: {nearest(name, names)}")
            _check_address(name, address)

    @property
    def services(self) -> Mapping[str, StackService]:
        """Every service by name, in the order in which the stack starts."""
        return {
            name: StackService(name, self.addresses.get(name, default), name in self.addresses)
            for name, default in self._defaults().items()
        }

    @property
    def workers(self) -> list[StackService]:
        """The ComfyUI servers; the index of each is the number of its GPU."""
        return [self.services[f"worker-{number}"] for number in range(self.gpus)]

    @property
    def fronted(self) -> list[StackService]:
        """The services to which nginx forwards requests."""
        return [self.services["gateway"]] if self.queue else self.workers

    @property
    def burst(self) -> int:
        """Prompts that one user may send at once: the quota of ten seconds, but at least four for each GPU."""
        return max(4 * self.gpus, math.ceil(self.rate / 6))

    @property
    def retry_after(self) -> int:
        """Seconds after which one more prompt of a limited user is accepted."""
        return math.ceil(60 / self.rate)

    @property
    def comfyload(self) -> str:
        """The version of this package, which the rendered image installs."""
        return version("pytest-comfyload")

    def _defaults(self) -> dict[str, str]:
        workers = {f"worker-{number}": f"worker-{number}:8188" for number in range(self.gpus)}
        queue = {"redis": "redis:6379", "gateway": "gateway:8200"} if self.queue else {}
        watch = {
            "monitor": "monitor:9188",
            "prometheus": "prometheus:9090",
            "alertmanager": "alertmanager:9093",
            "grafana": "grafana:3000",
        }
        front = {"nginx": "0.0.0.0:8080", **({"nginx-tls": "0.0.0.0:8443"} if self.domain else {})}
        return {**workers, **queue, **watch, **front}


def parse_addresses(texts: Iterable[str]) -> dict[str, str]:
    """Parse `NAME=HOST:PORT`, with each name at most once. Raises: UsageError."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, address = text.partition("=")
        if not (name and equals):
            raise UsageError(f"--address {text!r}: write NAME=HOST:PORT, such as worker-1=gpu2.lan:8188")
        if name in found:
            raise UsageError(f"--address {name} is given twice; give each service one address")
        found[name] = address
    return found


def _within(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise UsageError(f"{name} {value} is not supported; give a whole number from 1 to {most}")


def _check_address(name: str, address: str) -> None:
    """Check that an address is `HOST:PORT`. Raises: UsageError."""
    host, _, port = address.rpartition(":")
    if not (_HOST.fullmatch(host) and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise UsageError(f"--address {name}={address}: write HOST:PORT, with a port from 1 to 65535")
