"""Servers that break during a run: the run finishes, every prompt has an outcome, and no server is flooded."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from aiohttp import web

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.clock import Clock
from pytest_comfyload.engine import servers, user
from pytest_comfyload.engine import tracker as follow
from pytest_comfyload.engine import user_pool as crew
from pytest_comfyload.engine.engine import run_plan
from pytest_comfyload.result.outcome import Outcome, OutcomeStatus
from pytest_comfyload.scenario.executors import PerUserIterations
from tests.engine.test_engine import group, plan

STATUS = {"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "x"}}


class Broken:
    """A ComfyUI server that accepts prompts but never runs them; `on_prompt` decides what else happens."""

    def __init__(
        self,
        on_prompt: Callable[[Broken, str], Awaitable[web.Response | None]],
        on_view: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None,
        on_history: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None,
    ) -> None:
        self.on_prompt = on_prompt
        self.on_view = on_view or self._empty
        self.on_history = on_history or self._empty
        self.sockets: list[web.WebSocketResponse] = []
        self.run: asyncio.Task[None] | None = None
        self.posts = 0
        self.deleted: list[str] = []

    async def __aenter__(self) -> str:
        app = web.Application()
        app.router.add_get("/ws", self._ws)
        app.router.add_get("/prompt", self._depth)
        app.router.add_post("/prompt", self._prompt)
        app.router.add_post("/queue", self._queue)
        app.router.add_post("/interrupt", self._empty)
        app.router.add_get("/history/{id}", self.on_history)
        app.router.add_get("/view", self.on_view)
        app.router.add_get("/queue", self._empty)
        self._stack = AsyncExitStack()
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    async def _ws(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets.append(socket)
        await socket.send_json(STATUS)
        async for _ in socket:
            pass
        return socket

    async def _prompt(self, request: web.Request) -> web.Response:
        self.posts += 1
        body = await request.json()
        answer = await self.on_prompt(self, body["prompt_id"])
        return answer or web.json_response({"prompt_id": body["prompt_id"], "number": 1, "node_errors": {}})

    async def _queue(self, request: web.Request) -> web.Response:
        self.deleted += (await request.json())["delete"]
        return web.Response()

    async def _depth(self, request: web.Request) -> web.Response:
        return web.json_response({"exec_info": {"queue_remaining": 0}})

    async def _empty(self, request: web.Request) -> web.Response:
        return web.json_response({})


def outcomes_on(server: Broken, iterations: int = 1, timeout: float = 1.0) -> list[Outcome]:
    outcomes: list[Outcome] = []

    async def drive() -> None:
        async with server as url:
            assert ServerAddress.parse(url).url == url
            executor = PerUserIterations(users=1, iterations=iterations)
            await asyncio.wait_for(
                run_plan(plan(url, groups=[group(executor, timeout=timeout)]), Clock(), outcomes.append), 30
            )

    asyncio.run(drive())
    return outcomes


def test_a_server_that_shows_no_sign_of_life_times_out() -> None:
    async def nothing(server: Broken, prompt_id: str) -> None:
        return None

    server = Broken(nothing)
    (outcome,) = outcomes_on(server)
    assert outcome.status is OutcomeStatus.TIMEOUT
    assert "waited in the queue for 1 s and was given up" in str(outcome.error)
    assert server.deleted == [outcome.prompt_id]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits: real servers need seconds, but the ones here answer immediately or never."""
    monkeypatch.setattr(user, "RETRY_PAUSE", 0.02)
    monkeypatch.setattr(follow, "POLL", 0.05)
    monkeypatch.setattr(follow, "QUIET", 0.2)
    monkeypatch.setattr(servers, "LOOK_SERVES", 0.01)


@pytest.mark.usefixtures("impatient")
def test_a_prompt_that_is_nowhere_after_its_socket_closed_is_lost_and_the_next_one_gets_another_socket() -> None:
    async def close(server: Broken, prompt_id: str) -> None:
        await server.sockets[-1].close()

    server = Broken(close)
    outcomes = outcomes_on(server, iterations=3, timeout=20.0)
    assert [outcome.status for outcome in outcomes] == [OutcomeStatus.LOST] * 3
    assert "in neither queue nor history" in str(outcomes[0].error)
    assert len(server.sockets) == 4
    assert len({outcome.client_id for outcome in outcomes}) == 3
    assert server.posts == 3


@pytest.mark.usefixtures("impatient")
def test_all_prompts_of_a_shared_socket_that_breaks_are_asked_for() -> None:
    async def close_when_all_are_sent(server: Broken, prompt_id: str) -> None:
        if server.posts == 3:
            await server.sockets[-1].close()

    outcomes: list[Outcome] = []
    server = Broken(close_when_all_are_sent)

    async def drive() -> None:
        async with server as url:
            users = group(PerUserIterations(users=3, iterations=1), timeout=20.0, sockets="shared")
            await asyncio.wait_for(run_plan(plan(url, groups=[users]), Clock(), outcomes.append), 60)

    asyncio.run(drive())
    assert [outcome.status for outcome in outcomes] == [OutcomeStatus.LOST] * 3
    assert len({outcome.client_id for outcome in outcomes}) == 1
    # The first socket, and the one that replaced it for all later prompts.
    assert len(server.sockets) == 2


@pytest.mark.usefixtures("impatient")
def test_after_a_lost_socket_the_next_prompt_runs_as_ever() -> None:
    async def close_once(server: Broken, prompt_id: str) -> None:
        if server.posts == 1:
            await server.sockets[-1].close()
            return
        for kind, stamp in (("execution_start", 1000), ("execution_success", 1001)):
            await asyncio.sleep(0.002)  # a stamp ahead of the current time would be clamped to what the client saw
            await server.sockets[-1].send_json({"type": kind, "data": {"prompt_id": prompt_id, "timestamp": stamp}})

    lost, good = outcomes_on(Broken(close_once), iterations=2, timeout=20.0)
    assert (lost.status, good.status) == (OutcomeStatus.LOST, OutcomeStatus.SUCCESS)
    # These events arrived before the response to the POST but count anyway; later ones may improve the clock offset.
    assert good.generation_time == pytest.approx(0.001, abs=0.0005)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(500, OutcomeStatus.HTTP_ERROR), (503, OutcomeStatus.HTTP_ERROR), (401, OutcomeStatus.HTTP_ERROR)],
)
def test_an_http_error_is_its_own_kind(status: int, kind: OutcomeStatus) -> None:
    async def refuse(server: Broken, prompt_id: str) -> web.Response:
        return web.Response(status=status, text="broken for a reason\nsecond line")

    (outcome,) = outcomes_on(Broken(refuse))
    assert outcome.status is kind
    assert str(status) in str(outcome.error)


def test_a_rejection_carries_the_servers_reasons() -> None:
    async def reject(server: Broken, prompt_id: str) -> web.Response:
        fault = {"type": "value_not_in_list", "message": "Value not in list", "details": "ckpt_name: 'x' not in []"}
        body = {
            "error": {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed", "details": ""},
            "node_errors": {"4": {"errors": [fault], "class_type": "CheckpointLoaderSimple"}},
        }
        return web.json_response(body, status=400)

    (outcome,) = outcomes_on(Broken(reject))
    assert outcome.status is OutcomeStatus.REJECTED
    assert "node 4 (CheckpointLoaderSimple): Value not in list (ckpt_name: 'x' not in [])" in str(outcome.error)


def test_a_prompt_that_is_being_sent_when_the_run_is_cut_off_is_removed_after_it_has_arrived() -> None:
    arrived: list[str] = []

    async def main() -> list[str]:
        posting = asyncio.Event()

        async def take_time(server: Broken, prompt_id: str) -> None:
            posting.set()
            await asyncio.sleep(0.3)
            assert server.deleted == []
            arrived.append(prompt_id)

        server = Broken(take_time)
        async with server as url:
            one_prompt = plan(url, groups=[group(PerUserIterations(users=1, iterations=1))])
            run = asyncio.ensure_future(run_plan(one_prompt, Clock(), lambda outcome: None))
            await posting.wait()
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
        return server.deleted

    assert asyncio.run(main()) == arrived
    assert len(arrived) == 1


async def _drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        for _ in range(600):
            await response.write(b" ")
            await asyncio.sleep(0.1)
    return response


async def _never(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


async def run_it(server: Broken, prompt_id: str) -> None:
    """Send the events of a prompt that produced two images."""
    await asyncio.sleep(0.02)
    output = {"images": [{"filename": f"{number}.png", "subfolder": "", "type": "output"} for number in (1, 2)]}
    about = {"prompt_id": prompt_id, "timestamp": round(time.time() * 1000)}
    for kind, data in (
        ("execution_start", about),
        ("executing", {**about, "node": "1"}),
        ("executed", {**about, "node": "1", "output": output}),
        ("execution_success", about),
        ("executing", {**about, "node": None}),
    ):
        await server.sockets[-1].send_json({"type": kind, "data": data})


@pytest.mark.parametrize("slow", [_drip, _never], ids=["drips", "never-answers"])
def test_the_timeout_covers_the_download_of_outputs(
    slow: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> None:
    async def on_prompt(server: Broken, prompt_id: str) -> None:
        server.run = asyncio.create_task(run_it(server, prompt_id))

    began = time.monotonic()
    (outcome,) = outcomes_on(Broken(on_prompt, on_view=slow), timeout=1.0)
    assert time.monotonic() - began < 1 + user.BOOKKEEPING_TIME + crew.LEAST_PATIENCE + 3
    assert outcome.status is OutcomeStatus.TIMEOUT
    assert outcome.error is not None
    assert "the outputs were not downloaded within 2 s" in outcome.error


def test_a_servers_words_are_harmless_and_short_in_an_outcome() -> None:
    async def fail(server: Broken, prompt_id: str) -> None:
        words = "\x1b[2J##vso[task.complete]" + "x" * 1_000_000
        error = {"node_id": "1", "node_type": "A", "exception_type": "E", "exception_message": words, "executed": []}
        about = {"prompt_id": prompt_id, "timestamp": round(time.time() * 1000)}
        await server.sockets[-1].send_json({"type": "execution_start", "data": about})
        await server.sockets[-1].send_json({"type": "execution_error", "data": {**about, **error, "traceback": []}})

    (outcome,) = outcomes_on(Broken(fail), timeout=20.0)
    assert outcome.status is OutcomeStatus.EXECUTION_ERROR
    assert outcome.error is not None
    assert "\x1b" not in outcome.error
    assert "##vso[" not in outcome.error
    assert len(outcome.error) < 5000


def test_a_post_that_is_never_answered_ends_at_the_timeout() -> None:
    async def on_prompt(server: Broken, prompt_id: str) -> None:
        await asyncio.sleep(60)

    began = time.monotonic()
    (outcome,) = outcomes_on(Broken(on_prompt), timeout=1.0)
    assert time.monotonic() - began < 15
    assert outcome.status is OutcomeStatus.TIMEOUT
    assert outcome.error is not None
    assert "POST /prompt was not answered completely" in outcome.error


@pytest.mark.parametrize("slow", [_drip, _never], ids=["drips", "never-answers"])
def test_a_history_that_never_ends_does_not_hold_the_run(
    slow: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> None:
    async def on_prompt(server: Broken, prompt_id: str) -> None:
        return None

    began = time.monotonic()
    (outcome,) = outcomes_on(Broken(on_prompt, on_history=slow), timeout=1.0)
    assert time.monotonic() - began < 15
    assert outcome.status is OutcomeStatus.TIMEOUT
