"""What `comfyload gateway` costs: added latency, and prompts per second and core.

    python -m tests.benchmarks.bench_gateway [--prompts 200]

Workers are simulators in processes of their own. Direct and through the gateway take turns; compare their ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

from tests.gateway.cluster import Cluster, cluster
from tests.simulator.graphs import sleep

# Seconds per clock tick of /proc.
_TICK = 1 / os.sysconf("SC_CLK_TCK")
_PATIENCE = 60.0
ENDS = ("execution_success", "execution_error", "execution_interrupted")


class Client:
    """One client with a WebSocket; `run` gives the seconds from a POST to the end that it is told."""

    def __init__(self, session: aiohttp.ClientSession, url: str, name: str) -> None:
        self._session = session
        self._url = url
        self._name = name
        self._ends: dict[str, asyncio.Future[float]] = {}

    async def __aenter__(self) -> Client:
        self._socket = await self._session.ws_connect(f"{self._url}/ws?clientId={self._name}", headers=self._key)
        await self._socket.receive()
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._socket.close()

    @property
    def _key(self) -> dict[str, str]:
        return {"X-API-Key": self._name}

    async def run(self, graph: dict[str, Any]) -> float:
        id, begun = str(uuid.uuid4()), time.perf_counter()
        end: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._ends[id] = end
        body = {"prompt": graph, "prompt_id": id, "client_id": self._name}
        async with self._session.post(f"{self._url}/prompt", json=body, headers=self._key) as response:
            assert response.status == 200, await response.text()
        return await asyncio.wait_for(end, _PATIENCE) - begun

    async def _read(self) -> None:
        async for message in self._socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                event = json.loads(message.data)
                if event["type"] in ENDS and event["data"]["prompt_id"] in self._ends:
                    self._ends.pop(event["data"]["prompt_id"]).set_result(time.perf_counter())


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK


async def latency(running: Cluster, prompts: int) -> None:
    """One prompt at a time, direct and through the gateway by turns."""
    async with aiohttp.ClientSession() as session:
        urls = [running.workers[0].url, running.gateways[0].url]
        async with Client(session, urls[0], "direct") as direct, Client(session, urls[1], "through") as through:
            times: dict[str, list[float]] = {"direct": [], "gateway": []}
            for number in range(prompts):
                for name, client in (("direct", direct), ("gateway", through)):
                    times[name].append(await client.run(sleep(0.1, seed=2 * number + (name == "gateway"))))
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
        clients = [Client(session, running.gateways[0].url, f"c{number}") for number in range(10)]
        for client in clients:
            await client.__aenter__()
        await asyncio.gather(*(clients[number % 10].run(sleep(0.1, seed=number)) for number in range(prompts)))
        for client in clients:
            await client.__aexit__()
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
