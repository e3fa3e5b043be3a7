"""Choice of a GPU source for each server: the source that the user named, or the best one that answers.

The default is NVML if the server and its cards are on this machine, else the server's own /metrics if it reports GPUs,
else the memory that ComfyUI reports.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.errors import ServerError, UsageError
from pytest_comfyload.gpu import choose as local
from pytest_comfyload.gpu.http_sources import CalledSource, MetricsSource, SystemStatsSource, devices_of
from pytest_comfyload.gpu.nvml import NvmlSource
from pytest_comfyload.gpu.nvml_devices import NoGpus, nvml_devices
from pytest_comfyload.gpu.nvml_select import gpus_of_server
from pytest_comfyload.gpu.prometheus import Card
from pytest_comfyload.gpu.spec import OPTION, SOURCES, GpuSource, GpuSpec
from pytest_comfyload.protocol.system_stats import SystemStats
from pytest_comfyload.result.run_facts import GpuFacts

__all__ = ["THIS_MACHINE", "Chosen", "all_gpus", "choose", "choose_local", "gpus_of", "is_local"]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The source of one server, if any, a line that describes it to the user, and the facts of its GPUs."""

    source: GpuSource | None
    line: str
    facts: tuple[GpuFacts, ...] = ()


def choose_local() -> Chosen | None:
    """Choose all GPUs of this machine, for a run whose servers are not named; None if NVML shows none."""
    source = local.all_gpus()
    return None if source is None else _chosen_nvml(source)


async def choose(server: ServerAddress, stats: SystemStats, spec: GpuSpec | None = None) -> Chosen:
    """Choose the GPU source of a server. Raises: UsageError if the source that `spec` names cannot be used."""
    if spec is None:
        return await _nvml_here(server, stats) or await _own_metrics(server, stats) or _own_stats(server, stats)
    if spec.kind in SOURCES:
        return await _of_a_plugin(server, stats, spec)
    if spec.kind == "none":
        return Chosen(None, f"{server.url}: none, as {OPTION} says")
    if spec.kind == "metrics":
        return await _told_metrics(server, stats, spec)
    if spec.kind == "nvml":
        return await _told_nvml(server, stats, spec)
    return _own_stats(server, stats)


async def _of_a_plugin(server: ServerAddress, stats: SystemStats, spec: GpuSpec) -> Chosen:
    """Choose a plugin's source. If it reports no GPU or fails, the load only lacks GPU figures."""
    source = CalledSource(server.url, spec.kind, spec.argument, stats.time_scale or 1.0)
    try:
        cards = await source.cards()
    except ServerError as error:
        return Chosen(None, f"{server.url}: none; {source} failed: {error}")
    return _chosen(source, cards, stats) if cards else Chosen(None, f"{server.url}: none; {source} reports no GPU")


async def _told_metrics(server: ServerAddress, stats: SystemStats, spec: GpuSpec) -> Chosen:
    assert spec.endpoint is not None
    source = MetricsSource(server.url, spec.endpoint, spec.gpus, stats.time_scale or 1.0)
    try:
        cards = await source.cards()
    except ServerError as error:
        raise UsageError(f"{OPTION} {server.url}={source}: {error}") from None
    if not cards:
        raise UsageError(f"{OPTION} {server.url}={source}: it reports no such GPU, or is not a DCGM exporter")
    return _chosen(source, cards, stats)


async def _nvml_here(server: ServerAddress, stats: SystemStats) -> Chosen | None:
    if stats.time_scale is not None or not local.is_local(server.url) or not devices_of(stats):
        return None
    try:
        return _chosen_nvml(await asyncio.to_thread(local.gpus_of, server.url, stats))
    except UsageError:
        return None


async def _told_nvml(server: ServerAddress, stats: SystemStats, spec: GpuSpec) -> Chosen:
    try:
        return _chosen_nvml(await asyncio.to_thread(local.gpus_of, server.url, stats, spec.gpus))
    except UsageError as error:
        named = f":{','.join(spec.gpus)}" if spec.gpus else ""
        raise UsageError(f"{OPTION} {server.url}=nvml{named}: {error}") from None


async def _own_metrics(server: ServerAddress, stats: SystemStats) -> Chosen | None:
    endpoint = replace(server, url=f"{server.url}/metrics")
    source = MetricsSource(server.url, endpoint, scale=stats.time_scale or 1.0)
    cards: Sequence[Card] = ()
    with contextlib.suppress(ServerError):
        cards = await source.cards()
    return _chosen(source, cards, stats) if cards else None


def _own_stats(server: ServerAddress, stats: SystemStats) -> Chosen:
    cards = devices_of(stats)
    if not cards:
        return Chosen(None, f"{server.url}: none, it runs on its CPU")
    return _chosen(SystemStatsSource(server, stats.time_scale or 1.0), cards, stats)


def _chosen_nvml(source: NvmlSource) -> Chosen:
    titles = ", ".join(device.name for device in source.devices)
    return Chosen(source, f"{source.server}: {source} ({titles})", source.facts)


def _chosen(source: GpuSource, cards: Sequence[Card], stats: SystemStats) -> Chosen:
    titles = [card.title or card.gpu for card in cards]
    simulated = ["SIMULATED"] if stats.time_scale is not None else []
    many = len(devices_of(stats)) < len(cards)
    hint = f"; the server uses {len(devices_of(stats))} of them: name them with {OPTION}" if many else ""
    line = f"{source.server}: {source} ({', '.join([*titles, *simulated])}{hint})"
    return Chosen(source, line, tuple(card.facts(source.server) for card in cards))


# Used in place of a server's URL.
THIS_MACHINE = "this machine"


def is_local(url: str) -> bool:
    """Return whether a server's address is on this machine; the address of a tunnel looks the same."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def gpus_of(server: str, stats: SystemStats, named: Sequence[str] = ()) -> NvmlSource:
    """Return the GPUs in `named`, or else those that the server computes on.

    Raises: UsageError if these cannot be determined.
    """
    if named:
        return NvmlSource(server, named)
    devices = nvml_devices()
    found = devices if isinstance(devices, NoGpus) else gpus_of_server(stats, devices)
    if isinstance(found, NoGpus):
        raise UsageError(found.reason)
    return NvmlSource(server, [device.uuid for device in found])


def all_gpus() -> NvmlSource | None:
    """Return all GPUs of this machine; None if NVML shows none."""
    try:
        return NvmlSource(THIS_MACHINE)
    except UsageError:
        return None
