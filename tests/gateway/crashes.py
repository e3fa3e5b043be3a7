"""Crash test: the fate of prompts sent through two gateways while a worker, a gateway and Redis are killed.

    python -m tests.gateway.crashes [--prompts 1000] [--seeds 10] [--first 1] [--stalls]

Every prompt must end in a known state, its end must be reported to its client exactly once, and every prompt that was
executed twice must be counted. With --stalls, each of the three is suspended for some seconds instead (SIGSTOP,
SIGCONT), the worker often for longer than a gateway waits for it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.gateway.cluster import Cluster, ServerProcess, cluster
from tests.gateway.redis_server import RedisServer
from tests.simulator.graphs import sleep

__all__ = ["Account", "crash_run"]

ENDS = ("execution_success", "execution_error", "execution_interrupted")
TIME_SCALE = 50.0
# Virtual seconds that a prompt takes.
PROMPT = 2.0
USERS = 9
# Seconds within which all must have ended, and within which a worker that was away reports what it executed.
PATIENCE, LATE = 240.0, 20.0
# Minimum and maximum seconds for which a process is down or suspended.
GONE = (0.0, 1.0)
STILL = {"worker": (5.0, 40.0), "gateway": (2.0, 10.0), "Redis": (2.0, 8.0)}


@dataclass
class Account:
    """The ends reported to the client, as event ids and types, and the state of the history entry, by prompt id."""

    seed: int
    sent: int = 0
    ends: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    executions: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    twice: int = 0
    seconds: float = 0.0

    @property
    def unended(self) -> int:
        """Prompts whose client was told of no end."""
        return self.sent - len(self.ends)

    @property
    def unknown(self) -> int:
        """Prompts without an entry in the history."""
        return self.sent - len(self.states)

    @property
    def delivered_twice(self) -> int:
        return sum(len(ends) > 1 for ends in self.ends.values())

    @property
    def seen_twice(self) -> int:
        """Prompts that the workers' histories, as far as they have survived, show as executed twice."""
        return sum(count > 1 for count in self.executions.values())

    @property
    def errors(self) -> int:
        return sum(ends[0][0] != "execution_success" for ends in self.ends.values())

    def line(self) -> str:
        return (
            f"{self.seed:4} {self.sent:7} {self.unended:9} {self.unknown:8} {self.delivered_twice:10} {self.errors:6} "
            f"{self.retries:8} {self.twice:14} {self.seen_twice:10} {self.seconds:8.1f}"
        )


HEAD = "seed prompts  no event no state told twice errors  retried executed twice seen twice  seconds"


def crash_run(prompts: int, seed: int, rate: float, *, stalls: bool = False) -> Account:
    """Run once, sending `rate` prompts per second; with `stalls`, processes are suspended for a while, not killed."""
    with cluster(3, 2, TIME_SCALE, "--max-waiting", "100000") as running:
        return asyncio.run(_Run(running, Account(seed), prompts, rate, stalls).run())


class _Run:
    def __init__(self, running: Cluster, account: Account, prompts: int, rate: float, stalls: bool) -> None:
        self.cluster = running
        self.account = account
        self.prompts = prompts
        self.rate = rate
        self.stalls = stalls
        self.random = random.Random(account.seed)
        self.changed = asyncio.Event()

    async def run(self) -> Account:
        begun = time.monotonic()
        timeout = aiohttp.ClientTimeout(total=20)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            listeners = [asyncio.create_task(self._listen(session, number)) for number in range(USERS)]
            crashes = asyncio.create_task(self._crash())
            await asyncio.gather(*(self._send(session, number) for number in range(self.prompts)))
            await crashes
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    while self.account.unended:
                        self.changed.clear()
                        await self.changed.wait()
            # Duplicates come late.
            await asyncio.sleep(1.0)
            late = time.monotonic() + LATE
            await self._look(session)
            while self.account.seen_twice > self.account.twice and time.monotonic() < late:
                await asyncio.sleep(0.5)
                await self._look(session)
            for each in listeners:
                each.cancel()
            await asyncio.gather(*listeners, return_exceptions=True)
        self.account.seconds = time.monotonic() - begun
        return self.account

    async def _send(self, session: aiohttp.ClientSession, number: int) -> None:
        await asyncio.sleep(number / self.rate)
        user = number % USERS
        body = {"prompt": sleep(PROMPT, seed=number), "prompt_id": str(uuid.uuid4()), "client_id": f"c{user}"}
        while True:
            gateway = self.random.choice(self.cluster.gateways)
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with session.post(f"{gateway.url}/prompt", json=body, headers=_key(user)) as response:
                    if response.status == 200:
                        self.account.sent += 1
                        return
                    assert response.status in (429, 503), await response.text()
            await asyncio.sleep(0.2)

    async def _listen(self, session: aiohttp.ClientSession, user: int) -> None:
        """Listen like a client with a WebSocket: reconnect to any gateway, and name the last event received."""
        last = ""
        while True:
            gateway = self.random.choice(self.cluster.gateways)
            url = f"{gateway.url}/ws?clientId=c{user}&lastEventId={last}"
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with session.ws_connect(url, headers=_key(user), heartbeat=5) as socket:
                    async for message in socket:
                        if message.type is aiohttp.WSMsgType.TEXT:
                            last = self._note(json.loads(message.data)) or last
            await asyncio.sleep(0.1)

    def _note(self, event: dict[str, Any]) -> str:
        data = event["data"]
        if event["type"] in ENDS:
            self.account.ends.setdefault(data["prompt_id"], []).append((event["type"], data["event_id"]))
            self.changed.set()
        return str(data.get("event_id", ""))

    async def _crash(self) -> None:
        """Crash or suspend a worker, a gateway and Redis in the middle of the run, in any order."""
        duration = self.prompts / self.rate
        victims: dict[str, ServerProcess | RedisServer] = {
            "worker": self.random.choice(self.cluster.workers),
            "gateway": self.random.choice(self.cluster.gateways),
            "Redis": self.cluster.redis,
        }
        plan = sorted((self.random.uniform(0.15, 0.85) * duration, name) for name in victims)
        begun = time.monotonic()
        for moment, name in plan:
            await asyncio.sleep(max(0.0, begun + moment - time.monotonic()))
            if self.stalls:
                await self._stop(victims[name], self.random.uniform(*STILL[name]))
            else:
                await self._kill(victims[name])

    async def _stop(self, victim: ServerProcess | RedisServer, seconds: float) -> None:
        os.kill(victim.pid, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        os.kill(victim.pid, signal.SIGCONT)

    async def _kill(self, victim: ServerProcess | RedisServer) -> None:
        await asyncio.to_thread(victim.kill)
        await asyncio.sleep(self.random.uniform(*GONE))
        await asyncio.to_thread(victim.start)
        await asyncio.to_thread(victim.wait)

    async def _look(self, session: aiohttp.ClientSession) -> None:
        """Record what gateways and workers report afterwards."""
        url = self.cluster.gateways[0].url
        self.account.executions.clear()
        for user in range(USERS):
            async with session.get(f"{url}/history", headers=_key(user)) as response:
                for id, entry in (await response.json()).items():
                    self.account.states[id] = entry["status"]["messages"][-1][0]
        async with session.get(f"{url}/metrics") as response:
            for line in (await response.text()).splitlines():
                if line.startswith("comfyload_gateway_retries "):
                    self.account.retries = int(float(line.split()[1]))
                if line.startswith("comfyload_gateway_executed_twice "):
                    self.account.twice = int(float(line.split()[1]))
        for worker in self.cluster.workers:
            async with session.get(f"{worker.url}/history") as response:
                entries = await response.json()
                self.account.executions.update(id for id, each in entries.items() if each["status"]["completed"])


def _key(user: int) -> dict[str, str]:
    return {"X-API-Key": f"user {user}"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--rate", type=float, default=25.0, help="prompts per second")
    parser.add_argument("--stalls", action="store_true", help="let them stand still instead of killing them")
    chosen = parser.parse_args()
    print(HEAD, flush=True)
    wrong = 0
    for seed in range(chosen.first, chosen.first + chosen.seeds):
        account = crash_run(chosen.prompts, seed, chosen.rate, stalls=chosen.stalls)
        print(account.line(), flush=True)
        wrong += (
            account.unended + account.unknown + account.delivered_twice + max(0, account.seen_twice - account.twice)
        )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
