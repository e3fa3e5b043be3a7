"""What `comfyload gateway` costs: added latency, processor time of 1,000 prompts, and prompts per second and core.

    python -m tests.benchmarks.bench_gateway [--prompts 100]

Workers are simulators in separate processes. Direct and gateway measurements alternate; compare their ratios. Redis
syncs its file on every write (`appendfsync always`).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import aiohttp

from tests.benchmarks.bench_strategies import User
from tests.gateway.cluster import Cluster, cluster
from tests.simulator.graphs import sleep

ROUNDS = 3
# Seconds per clock tick of /proc.
_TICK = 1 / os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK


async def latency(running: Cluster, prompts: int) -> None:
    """Print the times of single prompts, alternately direct and through the gateway."""
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


async def burst(running: Cluster, urls: Sequence[str], prompts: int, first_seed: int) -> Mapping[str, float]:
    """Send prompts that only sleep to the servers in turn; return CPU seconds per 1,000 prompts, by process."""
    pids = {"gateway": [running.gateways[0].pid], "Redis": [running.redis.pid]}
    pids["workers"] = [each.pid for each in running.workers]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=40 + 10 * len(urls))) as session:
        users = [User(session, f"user{number}", urls) for number in range(10)]
        for user in users:
            await user.connect()
        before = {name: sum(map(cpu_seconds, each)) for name, each in pids.items()} | {"client": time.process_time()}
        await asyncio.gather(
            *(
                users[number % 10].run(urls[number % len(urls)], sleep(0.1, seed=first_seed + number))
                for number in range(prompts)
            )
        )
        after = {name: sum(map(cpu_seconds, each)) for name, each in pids.items()} | {"client": time.process_time()}
        for user in users:
            await user.close()
    return {name: 1000 * (after[name] - before[name]) / prompts for name in after}


async def costs(running: Cluster, prompts: int) -> None:
    """Print the costs of bursts over all workers, alternately direct and through the gateway."""
    urls = {"direct": [each.url for each in running.workers], "gateway": [running.gateways[0].url]}
    rounds: dict[str, list[Mapping[str, float]]] = {name: [] for name in urls}
    for number in range(ROUNDS):
        for place, name in enumerate(urls):
            seed = 10_000 + prompts * (2 * number + place)
            rounds[name].append(await burst(running, urls[name], prompts, seed))
    print(f"\nbursts of {prompts} over {len(running.workers)} workers, median of {ROUNDS}; CPU s of 1,000 prompts")
    print("                    direct  gateway")
    for process in ("client", "workers", "gateway", "Redis"):
        row = [statistics.median(each[process] for each in rounds[name]) for name in urls]
        print(f"{process:<18}{row[0]:8.2f} {row[1]:8.2f}")
    gateway, redis = (1000 / statistics.median(each[of] for each in rounds["gateway"]) for of in ("gateway", "Redis"))
    print(f"{gateway:.0f} prompts per second and core of the gateway, {redis:.0f} of Redis")


def percentile(values: Sequence[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=100)
    chosen = parser.parse_args()
    with cluster(1, 1, 200.0) as running:
        asyncio.run(latency(running, chosen.prompts))
    with cluster(8, 1, 1000.0) as running:
        asyncio.run(costs(running, 5 * chosen.prompts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
