"""Says which source serves which server: the one that the user named, or the best that answers.

By itself: NVML where the server is on this machine and its cards are, else the server's own /metrics if it tells of
GPUs, else what ComfyUI says of its memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.errors import ServerError, UsageError
from pytest_comfyload.gpu.metric_names import Card
from pytest_comfyload.gpu.metrics import MetricsSource
from pytest_comfyload.gpu.source import GpuSource
from pytest_comfyload.gpu.spec import OPTION, GpuSpec
from pytest_comfyload.gpu.system_stats import SystemStatsSource, devices_of
from pytest_comfyload.protocol.bodies import SystemStats

__all__ = ["Chosen", "choose"]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The source of one server, if it has any, and the line that tells a person of it."""

    source: GpuSource | None
    line: str


async def choose(server: ServerAddress, stats: SystemStats, spec: GpuSpec | None = None) -> Chosen:
    """Raises: UsageError where the source that `spec` names cannot serve."""
    if spec is None:
        return await _own_metrics(server, stats) or _own_stats(server, stats)
    if spec.kind == "none":
        return Chosen(None, f"{server.url}: none, as {OPTION} says")
    if spec.kind == "metrics":
        return await _told_metrics(server, stats, spec)
    if spec.kind == "nvml":
        raise UsageError(f"{OPTION} {server.url}=nvml: NVML cannot be read yet")
    return _own_stats(server, stats)


async def _told_metrics(server: ServerAddress, stats: SystemStats, spec: GpuSpec) -> Chosen:
    assert spec.endpoint is not None
    source = MetricsSource(server.url, spec.endpoint, spec.gpus, stats.time_scale or 1.0)
    try:
        cards = await source.cards()
    except ServerError as error:
        raise UsageError(f"{OPTION} {server.url}={source}: {error}") from None
    if not cards:
        raise UsageError(f"{OPTION} {server.url}={source}: it tells of no such GPU; it is no DCGM exporter's or ours")
    return _chosen(source, cards, stats)


async def _own_metrics(server: ServerAddress, stats: SystemStats) -> Chosen | None:
    endpoint = ServerAddress(server.route("/metrics"), server.headers)
    source = MetricsSource(server.url, endpoint, scale=stats.time_scale or 1.0)
    cards: Sequence[Card] = ()
    with contextlib.suppress(ServerError):
        cards = await source.cards()
    return _chosen(source, cards, stats) if cards else None


def _own_stats(server: ServerAddress, stats: SystemStats) -> Chosen:
    cards = devices_of(stats)
    if not cards:
        return Chosen(None, f"{server.url}: none, it computes on its processor")
    return _chosen(SystemStatsSource(server, stats.time_scale or 1.0), cards, stats)


def _chosen(source: GpuSource, cards: Sequence[Card], stats: SystemStats) -> Chosen:
    titles = [card.title or card.gpu for card in cards]
    simulated = ["SIMULATED"] if stats.time_scale is not None else []
    many = len(devices_of(stats)) < len(cards)
    hint = f"; the server uses {len(devices_of(stats))} of them: name them by {OPTION}" if many else ""
    return Chosen(source, f"{source.server}: {source} ({', '.join([*titles, *simulated])}{hint})")
