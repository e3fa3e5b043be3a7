"""Short prompts among long ones, by strategy, beside their prediction.

    python -m tests.benchmarks.bench_strategies [--prompts 200] [--seeds 1]

Three simulators are used directly in turn, behind nginx with its default round robin, behind the rendered nginx
(sticky) and behind the gateway. Twelve users send at a utilisation of 0.8; every tenth prompt takes 3 s, and the others
0.2 s. Each strategy gets the same schedule. The prediction is that of `comfyload plan`'s simulation for this schedule,
with the times that the two kinds of prompts take on an idle server; for `sticky`, it is given the server that nginx
chose for each user.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from pytest_comfyload.capacity.fleet import Demand, Fleet
from pytest_comfyload.capacity.simulation import simulate
from pytest_comfyload.launch.process import free_port
from pytest_comfyload.metrics.intervals import percentile
from pytest_comfyload.metrics.queueing import Dispatch
from tests.deploy.front import nginx, rendered
from tests.deploy.test_render import tool
from tests.gateway.cluster import ServerProcess, cluster
from tests.simulator.graphs import sleep

USERS, LOAD, SCALE = 12, 0.8, 5.0
SHORT, LONG, MEAN = 0.2, 3.0, 0.48
_PATIENCE = 120.0
ENDS = ("execution_success", "execution_error", "execution_interrupted")
_IN_TURN = """
worker_processes 1;
events {{}}
http {{
  access_log off;
  upstream workers {{ {servers} }}
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://workers; }} }}
}}
"""


class User:
    """A user who sends to any server and listens at all workers or the gateway: not every balancer forwards events."""

    def __init__(self, session: aiohttp.ClientSession, name: str, listens: Sequence[str]) -> None:
        self._session, self._name, self._listens = session, name, listens
        self._ends: dict[str, asyncio.Future[tuple[float, int]]] = {}
        self._readers: list[asyncio.Task[None]] = []

    async def connect(self) -> None:
        for place, url in enumerate(self._listens):
            socket = await self._session.ws_connect(f"{url}/ws?clientId={self._name}", headers=self._key)
            await socket.receive()
            self._readers.append(asyncio.create_task(self._read(socket, place)))

    async def close(self) -> None:
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)

    @property
    def _key(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._name}"}

    async def run(self, url: str, graph: Mapping[str, Any]) -> tuple[float, int]:
        """Send a prompt; return the seconds until its end is reported, and the index of the URL that reported it."""
        id, begun = str(uuid.uuid4()), time.perf_counter()
        self._ends[id] = end = asyncio.get_running_loop().create_future()
        body = {"prompt": graph, "prompt_id": id, "client_id": self._name}
        async with self._session.post(f"{url}/prompt", json=body, headers=self._key) as response:
            assert response.status == 200, await response.text()
        ended, place = await asyncio.wait_for(end, _PATIENCE)
        return ended - begun, place

    async def _read(self, socket: aiohttp.ClientWebSocketResponse, place: int) -> None:
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                event = json.loads(message.data)
                if event["type"] in ENDS and (end := self._ends.pop(event["data"]["prompt_id"], None)):
                    end.set_result((time.perf_counter(), place))


def schedule(prompts: int, seed: int, workers: int) -> list[float]:
    draws, at = random.Random(seed), 0.0
    return [at := at + draws.expovariate(LOAD * workers / MEAN) for _ in range(prompts)]


def is_long(number: int) -> bool:
    return number % 10 == 5


async def measure(
    fronts: Sequence[str], listens: Sequence[str], due: Sequence[float], first_seed: int
) -> list[tuple[float, int]]:
    """Send prompts when they are due, to the fronts in turn; return what `User.run` returns for each."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        users = [User(session, f"user{number}", listens) for number in range(USERS)]
        for user in users:
            await user.connect()

        async def one(number: int) -> tuple[float, int]:
            await asyncio.sleep(due[number])
            seconds = SCALE * (LONG if is_long(number) else SHORT)
            # Every prompt has its own seed, so that no result comes from a cache.
            graph = sleep(seconds, seed=first_seed + number)
            return await users[number % USERS].run(fronts[number % len(fronts)], graph)

        found = await asyncio.gather(*map(one, range(len(due))))
        for user in users:
            await user.close()
    return found


async def idle_times(worker: str) -> tuple[float, float]:
    """Return the seconds that a short and a long prompt take on an idle server."""
    async with aiohttp.ClientSession() as session:
        user = User(session, "idle", [worker])
        await user.connect()
        short = [(await user.run(worker, sleep(SCALE * SHORT, seed=number)))[0] for number in range(10)]
        long = [(await user.run(worker, sleep(SCALE * LONG, seed=100 + number)))[0] for number in range(2)]
        await user.close()
    return statistics.median(short), statistics.median(long)


def predicted(
    due: Sequence[float], services: Sequence[float], workers: int, dispatch: Dispatch, places: Sequence[int]
) -> list[float]:
    ran = simulate(Demand(due, services, people=places), Fleet(workers, dispatch=dispatch))
    return [end - at for end, at in zip(ran.ends, due, strict=True)]


@contextlib.contextmanager
def in_turn(folder: Path, workers: Sequence[ServerProcess]) -> Iterator[str]:
    """Run nginx with its default balancing, in turn, and yield its URL."""
    port = free_port()
    servers = " ".join(f"server 127.0.0.1:{each.port};" for each in workers)
    (folder / "nginx.conf").write_text(_IN_TURN.format(servers=servers, port=port), encoding="utf-8")
    command = [tool("nginx"), "-p", str(folder), "-c", "nginx.conf", "-g", f"daemon off; pid {folder}/pid;"]
    with subprocess.Popen([*command, "-e", f"{folder}/error.log"]) as process:
        try:
            time.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def table(prompts: int, seed: int, folder: Path) -> None:
    with cluster(3, 1, SCALE) as running, contextlib.ExitStack() as stack:
        workers = [each.url for each in running.workers]
        rendering, turns = folder / f"sticky{seed}", folder / f"turns{seed}"
        rendering.mkdir()
        turns.mkdir()
        sticky = stack.enter_context(nginx(rendering, rendered(rendering, workers)))
        in_turns = stack.enter_context(in_turn(turns, running.workers))
        gateway = [running.gateways[0].url]
        short, long = asyncio.run(idle_times(workers[0]))
        due = schedule(prompts, seed, len(workers))
        services = [long if is_long(number) else short for number in range(prompts)]
        strategies: list[tuple[str, Sequence[str], Sequence[str], Dispatch]] = [
            ("direct, in turn", workers, workers, "round_robin"),
            ("nginx, in turn", [in_turns], workers, "round_robin"),
            ("nginx, sticky", [sticky], workers, "sticky"),
            ("gateway", gateway, gateway, "shared"),
        ]
        for number, (name, fronts, listens, dispatch) in enumerate(strategies):
            found = asyncio.run(measure(fronts, listens, due, 1000 * (10 * seed + number)))
            plan = predicted(due, services, len(workers), dispatch, [place for _, place in found])
            row = [
                percentile([each for place, each in enumerate(times) if not is_long(place)], part)
                for times in ([seconds for seconds, _ in found], plan)
                for part in (50, 95)
            ]
            print(f"{seed:4}  {name:<18}{row[0]:>8.2f}{row[1]:>8.2f}{row[2]:>12.2f}{row[3]:>8.2f}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    chosen = parser.parse_args()
    print("short prompts, s; 3 workers, load 0.8")
    print("seed  strategy          measured p50  p95   predicted p50  p95")
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1, chosen.seeds + 1):
            table(chosen.prompts, seed, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
