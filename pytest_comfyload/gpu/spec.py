"""Specs of GPU sources, as users write them, and the protocol of a source of samples."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from pytest_comfyload.client.address import ServerAddress, without_credentials
from pytest_comfyload.errors import UsageError
from pytest_comfyload.result.telemetry import GpuSample

__all__ = ["OPTION", "SOURCES", "GpuReading", "GpuSource", "GpuSpec", "Keep", "Now", "parse_specs"]

OPTION = "--comfyload-gpu"
LEGAL = (
    "write URL=metrics:http://host:9400/metrics[#GPU-<uuid>,…], URL=nvml[:GPU-<uuid>,…], URL=system_stats or URL=none"
)
_SPEC = re.compile(r"(?P<url>https?://[^=?\s]+)=(?P<kind>\w+)(?::(?P<rest>\S+))?")


@dataclass(frozen=True, slots=True)
class GpuSpec:
    """The GPU source of a server.

    `kind`: metrics, nvml, system_stats, none, or the name of one of SOURCES, which gets the `argument`.
    `gpus`: GPUs to select from the source, by UUID or number; empty means all.
    """

    server: str
    kind: str
    endpoint: ServerAddress | None = None
    gpus: tuple[str, ...] = ()
    argument: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """A custom source's reading of one GPU at one moment; None for values that it does not report.

    Args:
        gpu: Its UUID or number.
        name: Its model.
        utilization: Share of the time in which it worked, percent 0-100.
        memory_used: Bytes.
        memory_total: Bytes.
        temperature: °C.
        power: Watts.
        energy: J since any fixed time.
        clock: MHz.
    """

    gpu: str
    name: str = ""
    utilization: float | None = None
    memory_used: float | None = None
    memory_total: float | None = None
    temperature: float | None = None
    power: float | None = None
    energy: float | None = None
    clock: float | None = None


# Sources from the user's plugins, called with the server's URL and the text after the name in --comfyload-gpu.
SOURCES: dict[str, Callable[[str, str], Iterable[GpuReading]]] = {}


def parse_specs(texts: Sequence[str], servers: Sequence[str]) -> Mapping[str, GpuSpec]:
    """Parse the specs into a mapping by server URL; each URL must be in `servers`. Raises: UsageError."""
    specs: dict[str, GpuSpec] = {}
    for text in texts:
        spec = _parse(text)
        if spec.server not in servers:
            known = ", ".join(servers) or "none is named"
            raise UsageError(f"{OPTION} {spec.server}={spec.kind} names a server that is not watched; servers: {known}")
        if spec.server in specs:
            raise UsageError(f"{OPTION} names {spec.server} twice; give each server one source")
        specs[spec.server] = spec
    return specs


def _parse(text: str) -> GpuSpec:
    match = _SPEC.fullmatch(text.strip())
    if match is None:
        # Do not print a password; the text before the last @ may be one.
        raise UsageError(f"{OPTION} {without_credentials(text)!r}: {LEGAL}")
    server, kind, rest = ServerAddress.parse(match["url"]).url, match["kind"], match["rest"]
    if kind == "metrics" and rest:
        url, _, gpus = rest.partition("#")
        return GpuSpec(server, kind, ServerAddress.parse(url), _names(gpus))
    if kind == "nvml":
        return GpuSpec(server, kind, gpus=_names(rest or ""))
    if kind in SOURCES:
        return GpuSpec(server, kind, argument=rest or "")
    if kind in ("system_stats", "none") and not rest:
        return GpuSpec(server, kind)
    raise UsageError(
        f"{OPTION} {server}={kind}{'' if rest is None else ':…'} is not a source of GPU figures; {LEGAL}{_added()}"
    )


def _added() -> str:
    return f"; added by plugins: {', '.join(SOURCES)}" if SOURCES else ""


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


# May be called from any thread.
Keep = Callable[[GpuSample], None]
# Seconds of the run's clock.
Now = Callable[[], float]


class GpuSource(Protocol):
    """The GPUs of one server, with the URL `server`. `str()` is for people: `nvml:GPU-4f…`, `metrics http://…`."""

    server: str

    @property
    def losses(self) -> tuple[str, ...]:
        """Problems while it watched, one sentence each: a lost GPU, an endpoint that stopped answering."""

    def watching(self, keep: Keep, now: Now) -> AbstractAsyncContextManager[None]:
        """Pass samples to `keep` while the context lasts. Raises on entering: UsageError if it cannot begin."""
