"""Whatever a worker, a gateway or Redis does, a prompt ends in a known state, and its client is told once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from pytest_comfyload.gateway import prompt_execution
from tests.gateway.cluster import Cluster, ServerProcess, cluster
from tests.gateway.crashes import ENDS, HEAD, crash_run
from tests.gateway.serving import FAST, User, gateway_over
from tests.simulator.graphs import sleep
from tests.simulator.talking import Talk, until

# Virtual time on the simulators runs fifty times as fast.
FAULTS: list[dict[str, float]] = [
    {"lost-event": 1},
    {"duplicate-event": 1},
    {"history-race": 5},
    {"early-event": 10},
    {"clock-step": 500},
    {"drop-socket": 12},
    {"deaf-socket": 12},
    {"evicted-history": True},
    {"http-503-burst": 50},
    {"clear-queue": 1},
]


@pytest.mark.parametrize("faults", FAULTS, ids=lambda faults: "-".join(faults))
def test_a_worker_with_a_fault_still_gives_each_client_one_result(
    redis_url: str, faults: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_execution, "QUIET", 0.3)

    async def talk() -> tuple[list[str], list[str]]:
        async with gateway_over(redis_url, simulated=replace(FAST, faults=faults)) as [ann], ann.listening() as socket:
            ids = [await ann.submit(sleep(1.0, seed=number)) for number in range(3)]
            events: list[dict[str, Any]] = []
            for _ in ids:
                events += await until(socket, "execution_success")
            # A duplicate arrives with the events of the next prompt.
            await ann.submit(sleep(1.0, seed=9))
            events += await until(socket, "execution_success")
            ends = [event["data"]["prompt_id"] for event in events if event["type"] == "execution_success"]
            return ids, ends

    ids, ends = asyncio.run(talk())
    assert ends[:3] == ids
    assert len(set(ends)) == 4


def test_a_worker_that_refuses_now_and_then_costs_a_try(redis_url: str) -> None:
    async def talk() -> set[str]:
        async with gateway_over(redis_url, workers=2, simulated=replace(FAST, faults={"http-500": 0.3})) as [ann]:
            ids = [await ann.submit(sleep(0.5, seed=number)) for number in range(10)]
            entries = [await ann.ended(id) for id in ids]
            return {
                data.get("exception_type", event)
                for event, data in (each["status"]["messages"][-1] for each in entries)
            }

    assert asyncio.run(talk()) <= {"execution_success", "WorkerLost"}


def test_a_worker_that_executes_nothing_any_more_is_given_up(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its HTTP and its WebSocket still answer."""
    monkeypatch.setattr(prompt_execution, "STUCK", 0.5)
    monkeypatch.setattr(prompt_execution, "QUIET", 0.3)

    async def talk() -> tuple[list[str], str]:
        async with gateway_over(redis_url, simulated=replace(FAST, faults={"dead-worker": 1})) as [ann]:
            await ann.ended(await ann.submit(sleep(0.1)))
            id = await ann.submit(sleep(0.1, seed=2))
            while "comfyload_gateway_retries 0.0" in await ann.text("/metrics"):
                await asyncio.sleep(0.1)
            # The prompt waits for a worker that is alive.
            await asyncio.sleep(0.5)
            return [item[1] for item in (await ann.get("/queue"))["queue_pending"]], id

    waiting, id = asyncio.run(talk())
    assert waiting == [id]


@pytest.fixture(scope="module")
def cluster_process() -> Iterator[Cluster]:
    with cluster(1, 2, 50.0) as running:
        yield running


@pytest.fixture
def cluster_of_one(cluster_process: Cluster) -> Iterator[Cluster]:
    """Yield one worker and two gateways, all of which are running before and after each test."""
    yield cluster_process
    for each in (*cluster_process.workers, *cluster_process.gateways):
        if each.process.poll() is not None:
            each.start()
        each.wait()


async def total(user: User, name: str) -> int:
    """Return a counter's total over all gateways."""
    lines = (await user.text("/metrics")).splitlines()
    return int(float(next(each for each in lines if each.startswith(f"comfyload_gateway_{name} ")).split()[1]))


async def driving_first(running: Cluster, session: aiohttp.ClientSession) -> list[tuple[ServerProcess, User]]:
    """Return the gateways, starting with the one that drives the worker."""
    users = [(each, User(session, each.url)) for each in running.gateways]
    while True:
        for pair in users:
            if 'comfyload_gateway_worker_driven{worker="w1"} 1.0' in await pair[1].text("/metrics"):
                return sorted(users, key=lambda each: each is not pair)
        await asyncio.sleep(0.1)


def test_a_prompt_that_two_workers_were_lost_with_ends_as_an_error(cluster_of_one: Cluster) -> None:
    async def talk(running: Cluster) -> tuple[dict[str, Any], Any]:
        async with aiohttp.ClientSession() as session:
            user = User(session, running.gateways[1].url)
            async with user.listening() as socket:
                id = await user.submit(sleep(500.0))
                for _ in range(2):
                    await until(socket, "progress")
                    running.workers[0].kill()
                    running.workers[0].start()
                [*_, event] = await until(socket, "execution_error")
                return event["data"], (await user.get(f"/history/{id}"))[id]

    error, entry = asyncio.run(talk(cluster_of_one))
    assert error["exception_type"] == "WorkerLost"
    assert entry["status"]["messages"][-1][1]["exception_type"] == "WorkerLost"


def test_a_prompt_whose_gateway_is_killed_is_adopted_and_executed_once(cluster_of_one: Cluster) -> None:
    async def talk(running: Cluster) -> None:
        async with aiohttp.ClientSession() as session:
            (driving, first), (_, second) = await driving_first(running, session)
            before = _counts(await second.text("/metrics"))
            id = await first.submit(sleep(100.0))
            while not (await second.get("/queue"))["queue_running"]:
                await asyncio.sleep(0.02)
            driving.kill()
            async with session.ws_connect(f"{second.url}/ws?clientId=me&lastEventId=0") as socket:
                events: list[dict[str, Any]] = []
                while not events or events[-1]["data"]["prompt_id"] != id:
                    events = [each for each in await until(socket, "execution_success") if each["type"] != "status"]
            # The first gateway may already have reported that it was executed.
            assert [each["data"]["prompt_id"] for each in events if each["type"] == "executed"][-1] == id
            assert _counts(await second.text("/metrics")) == before
            assert list(await second.get("/history"))[-1] == id

    asyncio.run(talk(cluster_of_one))


def test_a_gateway_that_is_asked_to_end_leaves_its_workers_to_others_at_once(cluster_of_one: Cluster) -> None:
    async def talk(running: Cluster) -> float:
        async with aiohttp.ClientSession() as session:
            (driving, _), (_, other) = await driving_first(running, session)
            begun = time.monotonic()
            assert driving.stop() == 0
            await other.ended(await other.submit(sleep(0.1, seed=5)))
            return time.monotonic() - begun

    assert asyncio.run(talk(cluster_of_one)) < 15


def test_a_gateway_that_stood_still_tells_no_end_again(cluster_of_one: Cluster) -> None:
    """This holds for every state in which the gateway was stopped."""

    async def talk(running: Cluster) -> tuple[list[str], list[str], int, int]:
        async with aiohttp.ClientSession() as session:
            (driving, first), (_, second) = await driving_first(running, session)
            before = await total(second, "executed_twice")
            async with second.listening("still") as socket:
                ids = [await second.submit(sleep(20.0, seed=50 + number), client_id="still") for number in range(6)]
                ends = [await next_end(socket)]
                driving.stand_still()
                ends += [await next_end(socket) for _ in ids[1:]]
                driving.go_on()
                # It no longer drives a worker, but still serves its users.
                ids.append(await first.submit(sleep(1.0, seed=99), client_id="still"))
                ends.append(await next_end(socket))
                known = await Talk(session, running.workers[0].url).get("/history")
            executed = sum(id in known for id in ids)
            return ids, ends, executed, await total(second, "executed_twice") - before

    ids, ends, executed, twice = asyncio.run(talk(cluster_of_one))
    assert sorted(ends) == sorted(ids)
    assert (executed, twice) == (len(ids), 0)


async def next_end(socket: aiohttp.ClientWebSocketResponse) -> str:
    """Return the prompt whose end is reported next."""
    while True:
        event = await socket.receive_json(timeout=30)
        if event["type"] in ENDS:
            return str(event["data"]["prompt_id"])


def _counts(metrics: str) -> list[str]:
    """Return the counters that are kept over all gateways."""
    names = ("comfyload_gateway_retries ", "comfyload_gateway_executed_twice ")
    return [line for line in metrics.splitlines() if line.startswith(names)]


@pytest.mark.parametrize("stalls", [False, pytest.param(True, marks=pytest.mark.long)])
def test_crashes_of_a_worker_a_gateway_and_redis_lose_nothing(stalls: bool) -> None:
    account = crash_run(prompts=60, seed=1, rate=12.0, stalls=stalls)
    told = f"{HEAD}\n{account.line()}"
    assert (account.sent, account.unended, account.unknown, account.delivered_twice) == (60, 0, 0, 0), told
    assert account.seen_twice <= account.twice, told
