"""What `comfyload gateway` costs: added latency, and prompts per second and core.

    python -m tests.benchmarks.bench_gateway [--prompts 200]

Workers are simulators in processes of their own. Direct and through the gateway take turns; compare their ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from tests.benchmarks.bench_strategies import User
from tests.gateway.cluster import Cluster, cluster
from tests.simulator.graphs import sleep

# Seconds per clock tick of /proc.
_TICK = 1 / os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK


async def latency(running: Cluster, prompts: int) -> None:
    """One prompt at a time, direct and through the gateway by turns."""
    async with aiohttp.ClientSession() as session:
        urls = [running.workers[0].url, running.gateways[0].url]
        users = {name: User(session, name, [url]) for name, url in zip(("direct", "gateway"), urls, strict=True)}
        times: dict[str, list[float]] = {name: [] for name in users}
        for user in users.values():
            await user.connect()
        for number in range(prompts):
            for place, (name, user) in enumerate(users.items()):
                taken, _ = await user.run(urls[place], sleep(0.1, seed=2 * number + place))
                times[name].append(taken)
        for user in users.values():
            await user.close()
    added = [after - before for before, after in zip(times["direct"], times["gateway"], strict=True)]
    print(f"one prompt at a time, {prompts} each; ms        p50     p95")
    for name, seconds in [*times.items(), ("added", added)]:
        print(f"{name:34} {1000 * statistics.median(seconds):10.2f} {1000 * percentile(seconds, 95):7.2f}")


async def rate(running: Cluster, prompts: int) -> None:
    """A burst of prompts without any work."""
    pids = [running.gateways[0].process.pid, running.redis.pid]
    before = [cpu_seconds(pid) for pid in pids]
    begun = time.perf_counter()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=50)) as session:
        url = running.gateways[0].url
        users = [User(session, f"user{number}", [url]) for number in range(10)]
        for user in users:
            await user.connect()
        await asyncio.gather(*(users[number % 10].run(url, sleep(0.1, seed=number)) for number in range(prompts)))
        for user in users:
            await user.close()
    seconds = time.perf_counter() - begun
    gateway, redis = (cpu_seconds(pid) - at for pid, at in zip(pids, before, strict=True))
    print(f"\na burst of {prompts} over {len(running.workers)} workers: {prompts / seconds:.0f} prompts/s here,")
    print(f"{prompts / gateway:.0f} per second and core of the gateway, {prompts / redis:.0f} of Redis")


def percentile(values: Sequence[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=200)
    chosen = parser.parse_args()
    with cluster(1, 1, 200.0) as running:
        asyncio.run(latency(running, chosen.prompts))
    with cluster(8, 1, 1000.0) as running:
        asyncio.run(rate(running, 5 * chosen.prompts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
