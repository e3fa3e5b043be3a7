from __future__ import annotations

import asyncio
import gc
import json
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from pytest_comfyload.client import socket as socket_module
from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.comfy import ComfyClient
from pytest_comfyload.client.event_stream import PendingPrompt
from pytest_comfyload.client.wire import tls_context
from pytest_comfyload.errors import (
    ComfyloadError,
    Disconnected,
    HttpError,
    LoginRequired,
    NotComfyUI,
    PromptRejected,
    TlsFailure,
)
from pytest_comfyload.protocol.bodies import PromptAnswer, QueueSnapshot
from pytest_comfyload.protocol.events import Status, UnknownMessage
from pytest_comfyload.protocol.outputs import OutputFile
from pytest_comfyload.protocol.prompt_state import PromptState, Stage
from tests.client.servers import FakeComfy

GRAPH = {"3": {"class_type": "KSampler", "inputs": {}}, "9": {"class_type": "SaveImage", "inputs": {}}}
PATIENCE = 20.0


def connected(
    server: FakeComfy, talk: Callable[[FakeComfy, ComfyClient], Awaitable[None]], headers: dict[str, str] | None = None
) -> None:
    """Run `talk` with a fake server and a client connected to it."""

    async def meet() -> None:
        async with server, ComfyClient(ServerAddress.parse(server.url, headers)) as client:
            await talk(server, client)

    asyncio.run(meet())


def refused(server: FakeComfy, headers: dict[str, str] | None = None) -> ComfyloadError:
    """Return the error raised when a client connects; the garbage collection would reveal anything left open."""

    async def meet() -> ComfyloadError:
        async with server:
            with pytest.raises(ComfyloadError) as caught:
                async with ComfyClient(ServerAddress.parse(server.url, headers)):
                    pass
            assert server.url in str(caught.value)
        return caught.value

    error = asyncio.run(meet())
    gc.collect()
    return error


async def over(pending: PendingPrompt) -> None:
    assert await pending.wait_until(lambda state: state.stage.over, PATIENCE)


async def run_prompt(server: FakeComfy, prompt_id: str) -> None:
    """Send the events of a prompt that takes a millisecond."""
    await server.send("execution_start", prompt_id=prompt_id, timestamp=1_000_000)
    await asyncio.sleep(0.002)  # a stamp ahead of the current time would be clamped to what the client saw
    await server.send("executing", prompt_id=prompt_id, node="9")
    await server.send("executed", prompt_id=prompt_id, node="9", output={"images": []})
    await server.send("execution_success", prompt_id=prompt_id, timestamp=1_000_001)
    await server.send("executing", prompt_id=prompt_id, node=None)


# --- prompts and their events ---


def test_a_prompt_from_submission_to_its_end() -> None:
    async def talk(server: FakeComfy, client: ComfyClient) -> None:
        pending = client.expect("p1", GRAPH)
        answer = await client.submit(pending, GRAPH, {"comfyload": {"run": "r"}})
        assert answer == PromptAnswer("p1", 1.0, {})
        await run_prompt(server, "p1")
        await over(pending)
        timeline = pending.state.timeline(0.0, client.server_clock.offset)
        assert timeline.generation_time == pytest.approx(0.001)
        assert [node.class_type for node in timeline.nodes] == ["SaveImage"]
        assert json.loads(server.body("POST", "/prompt")) == {
            "prompt": GRAPH,
            "prompt_id": "p1",
            "client_id": client.client_id,
            "extra_data": {"comfyload": {"run": "r"}},
        }

    connected(FakeComfy(), talk)


def test_events_that_come_before_the_answer_are_kept() -> None:
    async def answer_late(server: FakeComfy, body: dict[str, Any]) -> web.StreamResponse:
        await run_prompt(server, body["prompt_id"])
        while not reached:
            await asyncio.sleep(0.01)
        return web.json_response({"prompt_id": body["prompt_id"], "number": 1, "node_errors": {}})

    reached: list[Stage] = []

    async def talk(server: FakeComfy, client: ComfyClient) -> None:
        pending = client.expect("p1", GRAPH)
        posting = asyncio.create_task(client.submit(pending, GRAPH))
        await over(pending)
        assert not posting.done()
        reached.append(pending.state.stage)
        await posting
        assert pending.state.stage is Stage.SUCCEEDED
        assert pending.state.timeline(0.0, client.server_clock.offset).generation_time == pytest.approx(0.001)

    connected(FakeComfy(on_post=answer_late), talk)
    assert reached == [Stage.SUCCEEDED]


def test_events_reach_the_prompt_that_they_name() -> None:
    async def talk(server: FakeComfy, client: ComfyClient) -> None:
        mine, other, forgotten = (client.expect(name, GRAPH) for name in ("mine", "other", "forgotten"))
        client.forget("forgotten")
        for name in ("forgotten", "unheard-of", "mine"):
            await run_prompt(server, name)
        await over(mine)
        assert (other.state.stage, forgotten.state.stage) == (Stage.CREATED, Stage.CREATED)

    connected(FakeComfy(), talk)


def test_waiting_ends_when_its_time_is_over() -> None:
    async def talk(server: FakeComfy, client: ComfyClient) -> None:
        pending = client.expect("p1", GRAPH)
        assert not await pending.wait_until(lambda state: state.stage.over, 0.05)
        assert await pending.wait_until(lambda state: state.stage is Stage.CREATED, 0.05)

    connected(FakeComfy(), talk)


def test_a_frame_of_two_mebibytes_and_one_that_fits_nothing_do_no_harm() -> None:
    async def talk(server: FakeComfy, client: ComfyClient) -> None:
        pending = client.expect("p1", GRAPH)
        before = client.last_heard
        [socket] = server.sockets
        await socket.send_bytes(b"\0\0\0\1\0\0\0\1" + bytes(2 * 1024 * 1024))
        await socket.send_str("{rubbish")
        await run_prompt(server, "p1")
        await over(pending)
        assert client.last_heard > before

    connected(FakeComfy(), talk)


def test_a_server_that_closes_the_socket_disappoints_every_waiter_at_once() -> None:
    async def talk(server: FakeComfy, client: ComfyClient) -> None:
        waiting = [client.expect(name, GRAPH).wait_until(over_at_last, 600) for name in ("p1", "p2")]
        started = time.monotonic()
        waits = asyncio.gather(*waiting, return_exceptions=True)
        await asyncio.sleep(0)
        server.hang_up.set()
        assert [type(result) for result in await waits] == [Disconnected, Disconnected]
        assert time.monotonic() - started < PATIENCE

    connected(FakeComfy(), talk)


def over_at_last(state: PromptState) -> bool:
    return state.stage.over


def test_a_connection_that_breaks_disappoints_too() -> None:
    async def talk(server: FakeComfy, client: ComfyClient) -> None:
        waiting = asyncio.create_task(client.expect("p1", GRAPH).wait_until(over_at_last, 600))
        await asyncio.sleep(0)
        transport = server.sockets[0]._writer.transport  # type: ignore[union-attr]
        transport.abort()
        with pytest.raises(Disconnected):
            await asyncio.wait_for(waiting, PATIENCE)

    connected(FakeComfy(), talk)


def test_what_has_been_reached_counts_even_after_the_socket_is_lost() -> None:
    async def talk(server: FakeComfy, client: ComfyClient) -> None:
        pending = client.expect("p1", GRAPH)
        await run_prompt(server, "p1")
        server.hang_up.set()
        await over(pending)

    connected(FakeComfy(), talk)


def test_a_prompt_that_is_sent_after_the_socket_is_lost_is_told_once_it_is_answered() -> None:
    async def talk(server: FakeComfy, client: ComfyClient) -> None:
        first = client.expect("p1", GRAPH)
        server.hang_up.set()
        with pytest.raises(Disconnected):
            await first.wait_until(over_at_last, PATIENCE)
        second = client.expect("p2", GRAPH)
        await client.submit(second, GRAPH)
        with pytest.raises(Disconnected, match=f"{server.url}: the server closed the WebSocket"):
            await second.wait_until(over_at_last, 600)

    connected(FakeComfy(), talk)


def test_a_lost_socket_is_opened_again_under_a_fresh_id() -> None:
    async def talk(server: FakeComfy, client: ComfyClient) -> None:
        first_id = client.client_id
        await client.reopen()
        assert client.client_id == first_id  # nothing was lost yet
        server.hang_up.set()
        with pytest.raises(Disconnected):
            await client.expect("p1", GRAPH).wait_until(over_at_last, PATIENCE)
        server.hang_up.clear()
        server.sockets.clear()
        await client.reopen()
        assert client.client_id != first_id
        pending = client.expect("p2", GRAPH)
        await client.submit(pending, GRAPH)
        await run_prompt(server, "p2")
        await over(pending)

    connected(FakeComfy(), talk)


def test_a_socket_that_cannot_be_opened_again_is_tried_anew() -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.Response(status=502)

    async def talk(server: FakeComfy, client: ComfyClient) -> None:
        server.hang_up.set()
        with pytest.raises(Disconnected):
            await client.expect("p1", GRAPH).wait_until(over_at_last, PATIENCE)
        server.on_socket = refuse
        with pytest.raises(NotComfyUI):
            await client.reopen()
        server.on_socket = None
        server.hang_up.clear()
        await client.reopen()
        await client.submit(client.expect("p2", GRAPH), GRAPH)

    connected(FakeComfy(), talk)


# --- rejected prompts ---


def answering(status: int, body: object) -> FakeComfy:
    async def answer(server: FakeComfy, _: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(body, status=status)

    return FakeComfy(on_post=answer)


def submission_error(server: FakeComfy) -> ComfyloadError:
    errors: list[ComfyloadError] = []

    async def talk(server: FakeComfy, client: ComfyClient) -> None:
        pending = client.expect("p1", GRAPH)
        with pytest.raises(ComfyloadError) as caught:
            await client.submit(pending, GRAPH)
        assert server.url in str(caught.value)
        assert pending.state.stage is Stage.SENT
        errors.append(caught.value)

    connected(server, talk)
    return errors[0]


def test_a_rejected_prompt() -> None:
    node_errors = {"3": {"class_type": "KSampler", "errors": [{"message": "Value too big", "details": "steps"}]}}
    body = {"error": {"type": "prompt_outputs_failed_validation", "message": "Failed"}, "node_errors": node_errors}
    error = submission_error(answering(400, body))
    assert isinstance(error, PromptRejected)
    assert (error.status, error.node_errors) == (400, node_errors)
    assert str(error).endswith("rejected the prompt: Failed: node 3 (KSampler): Value too big (steps)")


def test_a_400_that_is_not_comfyuis_own() -> None:
    error = submission_error(answering(400, ["no"]))
    assert type(error) is HttpError
    assert error.status == 400


@pytest.mark.parametrize("body", [[], {}, {"prompt_id": "p1"}, {"prompt_id": "p1", "number": None}, "text"])
def test_a_200_in_another_language(body: object) -> None:
    assert type(submission_error(answering(200, body))) is NotComfyUI


# --- the other routes ---


def test_what_is_asked_and_told() -> None:
    async def talk(server: FakeComfy, client: ComfyClient) -> None:
        server.bodies = {
            "/queue": {"queue_running": [[1, "r"]], "queue_pending": [[3, "b"], [2, "a"]]},
            "/history/p1": {"p1": {"outputs": {"9": {"text": ["x"]}}, "status": {"messages": []}}},
            "/history/p2": {},
            "/system_stats": {"system": {"comfyui_version": "0.3.75"}, "devices": [{"name": "cpu"}]},
            "/object_info": {"A": {}, "B": {}},
            "/object_info/A B": {"A B": {}},
            "/view": b"PICTURE",
        }
        assert await client.queue() == QueueSnapshot(("r",), ("a", "b"))
        entry = await client.history("p1")
        assert entry is not None
        assert entry.outputs == {"9": {"text": ["x"]}}
        assert await client.history("p2") is None
        assert (await client.system_stats()).version == "0.3.75"
        assert await client.object_info() == {"A": {}, "B": {}}
        assert await client.object_info("A B") == {"A B": {}}
        assert await client.fetch(OutputFile("9", "images", "a b.png", "s/t", "temp")) == b"PICTURE"
        assert ("GET", "/view?filename=a+b.png&subfolder=s%2Ft&type=temp") in {(r[0], r[1]) for r in server.requests}
        await client.delete_pending(["p1", "p2"])
        assert json.loads(server.body("POST", "/queue")) == {"delete": ["p1", "p2"]}
        await client.interrupt("p1")
        assert json.loads(server.body("POST", "/interrupt")) == {"prompt_id": "p1"}

    connected(FakeComfy(), talk)


@pytest.mark.parametrize("body", [[], "text", 3])
def test_another_language_names_the_server(body: object) -> None:
    async def talk(server: FakeComfy, client: ComfyClient) -> None:
        server.bodies = dict.fromkeys(["/queue", "/history/p1", "/system_stats"], body)
        for call in (client.queue, lambda: client.history("p1"), client.system_stats):
            with pytest.raises(NotComfyUI, match=f"^{server.url}: GET /.* where ComfyUI sends a JSON object"):
                await call()

    connected(FakeComfy(), talk)


# --- how the client identifies itself ---


def test_own_headers_are_sent_on_both_ways() -> None:
    async def talk(server: FakeComfy, client: ComfyClient) -> None:
        await client.submit(client.expect("p1", GRAPH), GRAPH)
        for method, path in (("GET", "/prompt"), ("GET", "/ws"), ("POST", "/prompt")):
            assert server.headers(method, path)["x-api-key"] == "t0ken"

    connected(FakeComfy(), talk, {"X-Api-Key": "t0ken"})


def test_cookies_of_http_answers_go_to_the_socket() -> None:
    async def talk(server: FakeComfy, client: ComfyClient) -> None:
        assert server.headers("GET", "/ws")["cookie"] == "worker=a"

    connected(FakeComfy(http_cookies={"worker": "a"}), talk)


def test_cookies_of_the_socket_go_to_later_posts() -> None:
    async def talk(server: FakeComfy, client: ComfyClient) -> None:
        await client.submit(client.expect("p1", GRAPH), GRAPH)
        assert server.headers("POST", "/prompt")["cookie"] == "worker=b"

    connected(FakeComfy(socket_cookies={"worker": "b"}), talk)


def test_a_cookie_that_the_socket_renews_replaces_the_old_one() -> None:
    async def talk(server: FakeComfy, client: ComfyClient) -> None:
        await client.submit(client.expect("p1", GRAPH), GRAPH)
        assert server.headers("POST", "/prompt")["cookie"] == "worker=b"

    connected(FakeComfy(http_cookies={"worker": "a"}, socket_cookies={"worker": "b"}), talk)


@pytest.mark.parametrize("name", ["Cookie", "cookie"])
def test_a_login_cookie_of_the_users_own_stays_beside_the_servers(name: str) -> None:
    async def talk(server: FakeComfy, client: ComfyClient) -> None:
        await client.submit(client.expect("p1", GRAPH), GRAPH)
        assert server.headers("GET", "/prompt")["cookie"] == "login=x; lang=de"
        for method, path in (("GET", "/ws"), ("POST", "/prompt")):
            assert set(server.headers(method, path)["cookie"].split("; ")) == {"login=x", "lang=de", "worker=a"}

    connected(FakeComfy(http_cookies={"worker": "a"}), talk, {name: "login=x; lang=de"})


def test_users_do_not_share_cookies() -> None:
    async def meet() -> None:
        async with FakeComfy(http_cookies={"worker": "a"}) as server:
            address = ServerAddress.parse(server.url)
            async with ComfyClient(address), ComfyClient(address):
                assert "cookie" not in server.headers("GET", "/prompt")

    asyncio.run(meet())


# --- a socket that cannot be opened ---


def handshake(status: int, body: str = "", kind: str = "text/html") -> FakeComfy:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=body, content_type=kind)

    return FakeComfy(on_socket=answer)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, LoginRequired), (403, LoginRequired), (404, NotComfyUI), (502, NotComfyUI), (200, NotComfyUI)],
)
def test_a_handshake_that_is_refused(status: int, kind: type[ComfyloadError]) -> None:
    assert type(refused(handshake(status), {"X-Api-Key": "t0ken"})) is kind


def test_a_handshake_that_is_redirected_to_a_login() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/login?ticket=t1cket")

    error = refused(FakeComfy(on_socket=answer))
    assert type(error) is LoginRequired
    assert "t1cket" not in str(error)


def test_a_socket_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def mute(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str("hello")
        with suppress(asyncio.CancelledError):
            async for _ in socket:
                pass
        return socket

    monkeypatch.setattr(socket_module, "OPEN_TIMEOUT", 0.3)
    error = refused(FakeComfy(on_socket=mute))
    assert type(error) is NotComfyUI
    assert "sent no status" in str(error)


def test_a_socket_that_is_closed_before_it_says_anything_fails_at_once() -> None:
    async def hang_up(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.close()
        return socket

    started = time.monotonic()
    assert type(refused(FakeComfy(on_socket=hang_up))) is Disconnected
    assert time.monotonic() - started < 5


def test_a_login_page_where_the_queue_should_be() -> None:
    server = FakeComfy(bodies={"/prompt": b"<html>"})
    assert type(refused(server)) is NotComfyUI
    assert not any(path == "/ws" for _, path, _, _ in server.requests)


@pytest.mark.parametrize("name", ["http_proxy", "https_proxy", "all_proxy", "ws_proxy"])
def test_proxies_of_the_environment_are_not_obeyed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv(name.upper(), "http://127.0.0.1:1")

    async def talk(server: FakeComfy, client: ComfyClient) -> None:
        assert server.sockets

    connected(FakeComfy(), talk)


def test_tls_on_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    assert type(refused(FakeComfy(tls=context))) is TlsFailure

    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    tls_context.cache_clear()

    async def talk(server: FakeComfy, client: ComfyClient) -> None:
        pending = client.expect("p1", GRAPH)
        await run_prompt(server, "p1")
        await over(pending)

    try:
        connected(FakeComfy(tls=context), talk)
    finally:
        tls_context.cache_clear()


def test_what_custom_nodes_send_and_a_queue_that_stays_are_no_signs_of_life() -> None:
    async def talk(server: FakeComfy, client: ComfyClient) -> None:
        before = client.last_heard
        client._events._on_event(UnknownMessage("type 'crystools.monitor'"), before + 1)
        client._events._on_event(Status(0, None), before + 2)
        assert client.last_heard == before
        client._events._on_event(Status(1, None), before + 3)
        assert client.last_heard == before + 3

    connected(FakeComfy(), talk)


def test_an_answer_about_another_prompt_is_refused() -> None:
    async def another(server: FakeComfy, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"prompt_id": "another", "number": 1, "node_errors": {}})

    async def talk(server: FakeComfy, client: ComfyClient) -> None:
        with pytest.raises(NotComfyUI, match="the prompt_id 'another', not the one that was sent"):
            await client.submit(client.expect("p1", GRAPH), GRAPH)

    connected(FakeComfy(on_post=another), talk)


def test_an_output_whose_name_no_system_has_is_not_asked_for() -> None:
    async def talk(server: FakeComfy, client: ComfyClient) -> None:
        with pytest.raises(NotComfyUI, match="node 9 has a name of 5010 characters"):
            await client.fetch(OutputFile("9", "images", "x" * 5000 + ".png", "", "output"))

    connected(FakeComfy(), talk)


# --- users that share a client ---


def test_users_who_share_a_client_open_one_socket() -> None:
    async def talk(server: FakeComfy, client: ComfyClient) -> None:
        await asyncio.gather(*(client.open() for _ in range(3)))
        assert len(server.sockets) == 1

    connected(FakeComfy(), talk)


def test_one_other_socket_serves_all_who_lost_theirs() -> None:
    async def talk(server: FakeComfy, client: ComfyClient) -> None:
        before, waiting = client.client_id, client.expect("p1", GRAPH).wait_until(over_at_last, 600)
        lost = asyncio.gather(waiting, return_exceptions=True)
        await asyncio.sleep(0)
        server.hang_up.set()
        assert isinstance((await lost)[0], Disconnected)
        server.hang_up.clear()
        await asyncio.gather(*(client.reopen() for _ in range(3)))
        assert len(server.sockets) == 2
        assert client.client_id != before

    connected(FakeComfy(), talk)


def test_a_socket_that_one_user_distrusts_is_replaced_for_all() -> None:
    """Prompts sent under the old client_id must be looked up; those not yet sent use the new one."""

    async def talk(server: FakeComfy, client: ComfyClient) -> None:
        sent, ended, unsent = (client.expect(name, GRAPH) for name in ("sent", "ended", "unsent"))
        sent.state.send(0.0)
        await run_prompt(server, "ended")
        await over(ended)
        client.distrust_socket()
        await client.reopen()
        with pytest.raises(Disconnected):
            await sent.wait_until(over_at_last, PATIENCE)
        assert not await ended.wait_until(lambda state: False, 0.01)
        assert not await unsent.wait_until(over_at_last, 0.01)

    connected(FakeComfy(), talk)


def test_a_picture_without_a_word_is_of_the_prompt_that_began_last() -> None:
    """A prompt that was given up on may still count as running."""

    async def talk(server: FakeComfy, client: ComfyClient) -> None:
        given_up, running = client.expect("given up", GRAPH), client.expect("running", GRAPH)
        for name in ("given up", "running"):
            await server.send("execution_start", prompt_id=name, timestamp=1_000_000)
            await server.send("executing", prompt_id=name, node="9")
        [socket] = server.sockets
        await socket.send_bytes(b"\0\0\0\1\0\0\0\2\x89PNG\r\n\x1a\n")
        assert await running.wait_until(lambda state: bool(state.pictures), PATIENCE)
        assert given_up.state.pictures == []

    connected(FakeComfy(), talk)
