"""Checks of the ComfyUI servers themselves: caches and memory, folders, databases, versions."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.transport import Transport
from pytest_comfyload.deploy.examined import Deployment, Finding, cannot_tell, failed, passed
from pytest_comfyload.errors import ServerError
from pytest_comfyload.metrics.units import counted
from pytest_comfyload.protocol.json_values import as_dict, as_list, finite
from pytest_comfyload.protocol.system_stats import SystemStats
from pytest_comfyload.run.target import unsocketed

__all__ = ["check_cache", "check_databases", "check_growth", "check_versions", "stats_of"]

# Minimum share of the RAM that must be free.
LEAST_FREE = 0.1
# Maximum number of files in the output folder: SaveImage lists all of them for each image, to get the next number.
MOST_FILES = 50_000


async def check_cache(deployment: Deployment) -> Finding:
    """Check that node results are cached, and that there is memory for them."""
    stats = await stats_of(deployment.servers)
    if without := [url for url, each in stats.items() if "--cache-none" in each.argv]:
        return failed(
            f"{', '.join(without)}: --cache-none",
            "remove it: with it, each prompt executes every node again, loaders included",
        )
    short = {url: free for url, each in stats.items() if (free := _free_ram(each)) is not None and free < LEAST_FREE}
    if short:
        return failed(
            "; ".join(f"{url}: {free:.0%} of the RAM is free" for url, free in short.items()),
            "add memory, run fewer workers on the machine, or limit the cache: --cache-lru 50 in COMFYUI_ARGS",
        )
    if any(_free_ram(each) is None for each in stats.values()):
        return cannot_tell("a server does not report its RAM", "check it on the machine: free -h")
    modes = {url: _cache_mode(each) for url, each in stats.items()}
    least = min(free for each in stats.values() if (free := _free_ram(each)) is not None)
    return passed(f"cache: {', '.join(sorted(set(modes.values())))}; at least {least:.0%} of the RAM is free")


def _cache_mode(stats: SystemStats) -> str:
    flags = [text for text in stats.argv if text.startswith("--cache-")]
    return flags[0].removeprefix("--cache-") if flags else f"default of ComfyUI {stats.version}"


def _free_ram(stats: SystemStats) -> float | None:
    system = as_dict(stats.raw.get("system"))
    total, free = finite(system.get("ram_total")), finite(system.get("ram_free"))
    return None if total is None or free is None or total <= 0 else free / total


async def check_growth(deployment: Deployment) -> Finding:
    """Check that output folders have not grown so large that they slow the servers; report the histories."""
    counts = await asyncio.gather(*(_output_files(server) for server in deployment.workers))
    histories = await asyncio.gather(*(_history_length(server) for server in deployment.servers))
    kept = f"the longest history has {max(histories)} entries, of at most 10,000"
    known = {server.url: n for server, n in zip(deployment.workers, counts, strict=True) if n is not None}
    if many := {url: count for url, count in known.items() if count > MOST_FILES}:
        return failed(
            "; ".join(f"{url}: {count:,} files in the output folder" for url, count in many.items()),
            "delete old pictures (find output -mtime +7 -delete): SaveImage lists the folder for each picture",
        )
    if not known or len(known) < len(counts):
        return cannot_tell(f"a server does not list its output folder; {kept}", "name each worker with --worker")
    return passed(f"at most {max(known.values()):,} files in an output folder; {kept}")


async def _output_files(server: ServerAddress) -> int | None:
    transport = Transport(server)
    try:
        return len(as_list(await transport.get_json("/internal/files/output")))
    except ServerError:
        return None
    finally:
        await transport.aclose()


async def _history_length(server: ServerAddress) -> int:
    """Return the length of a history, by binary search: the whole history can be 57 MB. Raises: ServerError."""
    low, high = 0, 10_001
    async with unsocketed(server) as client:
        while low < high:
            middle = (low + high) // 2
            if await client.history_page(1, offset=middle):
                low = middle + 1
            else:
                high = middle
    return low


async def check_databases(deployment: Deployment) -> Finding:
    """Check that each worker has its own user folder and database."""
    own = "give each worker its own volume at /data, or its own --base-directory and --database-url"
    if deployment.stack is not None:
        places: dict[str, list[str]] = {}
        for name, service in deployment.stack.gpu_services.items():
            for volume in as_list(service.get("volumes")):
                source, _, rest = deployment.stack.filled(volume).partition(":")
                if rest.split(":")[0] in ("/data", "/data/user"):
                    places.setdefault(source, []).append(name)
        if shared := {source: names for source, names in places.items() if len(names) > 1}:
            return failed("; ".join(f"{', '.join(names)} share {source}" for source, names in shared.items()), own)
        if len({name for names in places.values() for name in names}) == len(deployment.stack.gpu_services) > 0:
            return passed(f"declared: {counted(len(places), 'volume')} for {counted(len(places), 'worker')}")
    if not deployment.workers:
        return cannot_tell("no worker is known", "name each worker with --worker, or the folder with --stack")
    return _by_flags(await stats_of(deployment.workers), own)


def _by_flags(stats: Mapping[str, SystemStats], own: str) -> Finding:
    """Return a finding based on command lines: two servers on one host with the same flags share their files."""
    seen: dict[tuple[str | None, str], str] = {}
    for url, each in stats.items():
        host, place = urlsplit(url).hostname, _flag(each.argv, "--database-url") or _flag(each.argv, "--base-directory")
        if (host, place) in seen:
            return failed(
                f"{seen[host, place]} and {url} are on one host with one database ({place or 'the default'})", own
            )
        seen[host, place] = url
    if len({host for host, _ in seen}) < len(seen) or len(seen) == 1:
        return passed(f"{counted(len(seen), 'worker')} with a database each, by their command lines")
    return cannot_tell("workers on several hosts: whether these share a disk is not known", "give --stack")


def _flag(argv: Sequence[str], name: str) -> str:
    """Return the value of an option given as `--name value` or `--name=value`; empty if it is absent."""
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        if word == name:
            return following
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return ""


async def check_versions(deployment: Deployment) -> Finding:
    """Check that all workers have the same ComfyUI, torch and node classes."""
    if not deployment.workers:
        return cannot_tell("no worker is known", "name each worker with --worker")
    stats = await stats_of(deployment.workers)
    kinds = {url: _versions(each) for url, each in stats.items()}
    rebuild = "build one image and start all workers from it: docker compose up -d --build"
    if len(set(kinds.values())) > 1:
        return failed("; ".join(f"{url}: {kind}" for url, kind in kinds.items()), rebuild)
    classes = {server.url: frozenset(await _classes(server)) for server in deployment.workers}
    everything = frozenset().union(*classes.values())
    lacking = {url: sorted(everything - own) for url, own in classes.items() if everything - own}
    if lacking:
        return failed(
            "; ".join(
                f"{url} lacks {len(names)} node classes ({', '.join(names[:3])} …)" for url, names in lacking.items()
            ),
            f"mount the same custom nodes into all workers; {rebuild}",
        )
    return passed(
        f"{counted(len(kinds), 'worker')} with {next(iter(kinds.values()))} and {len(everything)} node classes"
    )


def _versions(stats: SystemStats) -> str:
    system = as_dict(stats.raw.get("system"))
    return f"ComfyUI {stats.version}, torch {system.get('pytorch_version') or 'unknown'}"


async def _classes(server: ServerAddress) -> Mapping[str, Any]:
    async with unsocketed(server) as client:
        return await client.object_info()


async def stats_of(servers: Sequence[ServerAddress]) -> Mapping[str, SystemStats]:
    """Return the /system_stats of each server, by URL. Raises: ServerError."""
    found: dict[str, SystemStats] = {}
    for server in servers:
        async with unsocketed(server) as client:
            found[server.url] = await client.system_stats()
    return found
