"""Suspended gateways and workers that are away for long: a prompt has one result, and its client one end."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.gateway import prompt_execution, worker_driver, worker_link
from pytest_comfyload.gateway.gateway_metrics import GatewayMetrics
from pytest_comfyload.gateway.prompt_attempt import PromptAttempt
from pytest_comfyload.gateway.prompt_execution import PromptExecution
from pytest_comfyload.gateway.prompt_store import NewPrompt, PromptStore, TakenPrompt
from pytest_comfyload.gateway.rewriting import StampTranslator
from pytest_comfyload.gateway.worker_driver import WorkerDriver
from pytest_comfyload.gateway.worker_link import WorkerLink
from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.protocol.json_values import write_json
from tests.gateway.serving import FAST, User, gateway_before, gateway_over
from tests.gateway.test_faults import next_end, total
from tests.simulator.graphs import sleep
from tests.simulator.serving import serving
from tests.simulator.talking import Talk, until


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make faults noticed within seconds, with limits in about the same proportions as the real ones."""
    monkeypatch.setattr(prompt_execution, "GRACE", 2.0)
    monkeypatch.setattr(worker_driver, "GRACE", 2.0)
    monkeypatch.setattr(worker_driver, "LOOK", 1.0)
    monkeypatch.setattr(prompt_execution, "QUIET", 0.3)
    monkeypatch.setattr(worker_link, "LOOK_LIMIT", 1.0)
    monkeypatch.setattr(worker_link, "EXCHANGE", 1.5)


@contextmanager
def standing_still(pid: int) -> Iterator[None]:
    """Suspend a process within the block: it neither runs nor exits, and its connections stay open."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


# --- gateways --------------------------------------------------------------------------------------------------------


def test_what_another_gateway_has_taken_over_is_not_posted(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway was suspended between taking a prompt and posting it."""
    monkeypatch.setattr(prompt_execution, "RENEWED", 0.0)

    async def talk() -> tuple[str, dict[str, Any]]:
        async with serving(FAST) as worker, aiohttp.ClientSession() as session:
            store = PromptStore(redis_url, 60, (9, 10**6, 0.0, 1))
            link = WorkerLink("w1", ServerAddress.parse(worker))
            id = str(uuid.uuid4())
            await store.enqueue(_new(id))
            await store.own("w1", "first", 60)
            taken = await store.take("w1", "first", "token of the first", 60, "", "")
            await store.own("w1", "first", 0)
            assert await store.own("w1", "second", 60)
            await store.take("w1", "second", "token of the second", 60, "", "")
            assert taken is not None
            await _execution(link, store, taken).run()
            known = await Talk(session, worker).get("/queue") | await Talk(session, worker).get("/history")
            state = (await store.place_of(id))[0]
            await link.aclose()
            await store.aclose()
            return state, known

    state, known = asyncio.run(talk())
    assert (state, known) == ("running", {"queue_running": [], "queue_pending": []})


def _new(id: str) -> NewPrompt:
    body = write_json({"prompt": sleep(1.0), "extra_data": {}, "outputs": ["2"], "targets": None})
    return NewPrompt(id=id, user="ann", client="", priority=0, order="", body=body, fit="", model="", created=0.0)


def _execution(link: WorkerLink, store: PromptStore, taken: TakenPrompt) -> PromptExecution:
    attempt = PromptAttempt(taken, "token of the first", "w1", 1.0, store, StampTranslator(), GatewayMetrics())

    async def nothing(*_: object) -> bool:
        return False

    return PromptExecution(link, store, attempt, 60, link.open, nothing)


def test_a_prompt_of_a_lost_gateway_is_followed_while_it_is_executed(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its progress is reported and its lease is renewed, so that a long prompt is not considered lost."""
    monkeypatch.setattr(worker_driver, "OWNED", 0.5)

    async def nothing(_: WorkerDriver) -> None:
        """Release nothing, like a gateway that is killed."""

    async def talk() -> tuple[set[str], int]:
        async with AsyncExitStack() as stack:
            worker = await stack.enter_async_context(serving(FAST))
            lost = AsyncExitStack()
            first = await lost.enter_async_context(gateway_before(redis_url, [worker]))
            second = await stack.enter_async_context(gateway_before(redis_url, [worker]))
            session = await stack.enter_async_context(aiohttp.ClientSession())
            user = User(session, second)
            async with user.listening() as socket:
                await User(session, first).submit(sleep(200.0))
                await until(socket, "progress")
                monkeypatch.setattr(WorkerDriver, "release", nothing)
                await lost.aclose()
            # A new socket receives nothing that the first one has received.
            async with user.listening() as socket:
                events = await until(socket, "execution_success")
                return {each["type"] for each in events}, await total(user, "retries")

    kinds, retries = asyncio.run(talk())
    assert "progress" in kinds
    assert retries == 0


# --- workers ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
def test_a_worker_away_for_longer_than_the_grace_costs_a_try(redis_url: str) -> None:
    """It continues its prompt when it is back: that is counted, and not reported twice."""

    async def talk() -> tuple[str, list[str], list[str], int, int, int]:
        with (
            SimulatorProcess(time_scale=50, probe_nodes=True) as one,
            SimulatorProcess(time_scale=50, probe_nodes=True) as two,
        ):
            async with gateway_before(redis_url, [one.url, two.url]) as url, aiohttp.ClientSession() as session:
                user, names = User(session, url), {one.url: "w1", two.url: "w2"}
                async with user.listening() as socket:
                    id = await user.submit(sleep(100.0))
                    await until(socket, "progress")
                    away = await _running_at(session, id, [*names])
                    with standing_still({each.url: each.pid for each in (one, two)}[away]):
                        ends = [await next_end(socket)]
                    # Both are working again, and the one that was away has been asked for the result of the prompt.
                    while f'worker_up{{worker="{names[away]}"}} 1.0' not in await user.text("/metrics"):
                        await asyncio.sleep(0.1)
                    more = [await user.submit(sleep(10.0, seed=number)) for number in range(2, 6)]
                    ends += [await next_end(socket) for _ in more]
                    counted = await total(user, "executed_twice")
                    entries = [await Talk(session, each).get(f"/history/{id}") for each in names]
                    done = sum(bool(each) and each[id]["status"]["completed"] for each in entries)
                    return id, more, ends, await total(user, "retries"), done, counted

    id, more, ends, retries, executed, twice = asyncio.run(talk())
    assert ends[0] == id
    assert sorted(ends) == sorted([id, *more])
    assert retries == 1
    assert twice == executed - 1


@pytest.mark.usefixtures("impatient")
def test_a_prompt_goes_on_where_it_is_when_its_only_worker_is_back(redis_url: str) -> None:
    """Nothing is executed again, and the result of the first try counts."""

    async def talk() -> tuple[list[Any], dict[str, Any], int, int]:
        with SimulatorProcess(time_scale=50, probe_nodes=True) as worker:
            async with gateway_before(redis_url, [worker.url]) as url, aiohttp.ClientSession() as session:
                user, direct = User(session, url), Talk(session, worker.url)
                async with user.listening() as socket:
                    id = await user.submit(sleep(250.0))
                    await until(socket, "progress")
                    [before] = (await direct.get("/queue"))["queue_running"]
                    with standing_still(worker.pid):
                        while not await total(user, "retries"):
                            await asyncio.sleep(0.1)
                    assert await next_end(socket) == id
                    entry = (await direct.get(f"/history/{id}"))[id]
                    return before, entry, await total(user, "retries"), await total(user, "executed_twice")

    before, entry, retries, twice = asyncio.run(talk())
    assert entry["prompt"][:2] == before[:2]  # its number on the worker, and its id
    assert entry["status"]["status_str"] == "success"
    assert (retries, twice) == (1, 0)


async def _running_at(session: aiohttp.ClientSession, id: str, workers: list[str]) -> str:
    """Return the worker that is executing a prompt."""
    for url in workers:
        if [item[1] for item in (await Talk(session, url).get("/queue"))["queue_running"]] == [id]:
            return url
    raise AssertionError("no worker executes it")


SILENT = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 5}},
    "2": {"class_type": "SaveImage", "inputs": {"filename_prefix": "silent", "images": ["1", 0]}},
}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_prompt_without_progress_is_given_up_after_the_stall(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """After two tries, on one worker or on both: the interruption of the first try does not end the prompt."""
    monkeypatch.setattr(prompt_execution, "QUIET", 0.3)
    simulated = replace(FAST, node_times={"EmptyImage": 150.0}, cache="none")

    async def talk() -> tuple[dict[str, Any], int, str]:
        async with (
            gateway_over(redis_url, workers=workers, simulated=simulated, stall=1.0) as [ann],
            ann.listening() as socket,
        ):
            await ann.submit(SILENT)
            [*_, error] = await until(socket, "execution_error")
            entry = await ann.ended(await ann.submit(sleep(1.0)))
            return error["data"], await total(ann, "retries"), entry["status"]["status_str"]

    error, retries, after = asyncio.run(talk())
    assert error["exception_type"] == "WorkerLost"
    assert error["exception_message"].startswith("it showed no progress for 1 s (worker w")
    assert error["exception_message"].endswith("it was tried 2 times")
    assert (retries, after) == (1, "success")
