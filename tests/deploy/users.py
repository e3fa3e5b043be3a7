"""Twelve simultaneous users of a deployment: what each of them receives, and whether it is right."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import aiohttp
from PIL import Image

from tests.simulator.graphs import txt2img

__all__ = ["USERS", "Received", "check_limits", "check_received", "receive", "seeded"]

USERS, EACH = 12, 2
_PATIENCE = 180.0
_SAVE = "9"


def seeded(series: int, user: int, number: int = 0) -> dict[str, Any]:
    """Return a small prompt whose picture is unique; all pictures have the same file name."""
    seed = 1000 * series + 10 * user + number
    return txt2img(seed, checkpoint="tiny_sd15.safetensors", steps=2, width=64, height=64)


@dataclass
class Received:
    """Everything that one user received: messages that name a prompt, entries of /history, files by prompt."""

    sent: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    history: dict[str, Any] = field(default_factory=dict)
    entries: dict[str, Any] = field(default_factory=dict)
    files: dict[str, list[bytes]] = field(default_factory=dict)


def headers(user: str) -> dict[str, str]:
    """Return the headers by which a deployment distinguishes users."""
    return {"Authorization": f"Bearer {user}"}


async def receive(url: str, series: int) -> list[Received]:
    """Act as all users at once; none leaves before the last one has all of its events.

    `series`: a different number for each call, so that no server has results of an earlier one in its cache.
    """
    everyone = asyncio.Barrier(USERS)
    async with asyncio.timeout(_PATIENCE):
        return await asyncio.gather(*(_be(url, series, number, everyone) for number in range(USERS)))


async def _be(url: str, series: int, user: int, everyone: asyncio.Barrier) -> Received:
    got = Received()
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(url, headers=headers(f"user-{user}")))
        socket = await stack.enter_async_context(session.ws_connect(f"/ws?clientId=client-{user}"))
        # Each user listens before any prompt is sent, so that misdirected messages are seen.
        await everyone.wait()
        reader = asyncio.create_task(_listen(socket, got))
        stack.callback(reader.cancel)
        for number in range(EACH):
            graph = seeded(series, user, number)
            body = {"prompt": graph, "client_id": f"client-{user}"}
            async with session.post("/prompt", json=body) as response:
                answer = await response.json()
                assert response.status == 200, answer
                got.sent[answer["prompt_id"]] = graph
        while not got.sent.keys() <= _ended(got):
            assert not reader.done(), "the WebSocket was closed"
            await asyncio.sleep(0.02)
        got.history = await _json(session, "/history")
        for id in got.sent:
            got.entries |= await _json(session, f"/history/{id}")
            got.files[id] = [await _file(session, image) for image in got.entries[id]["outputs"][_SAVE]["images"]]
        await everyone.wait()
    return got


async def _listen(socket: aiohttp.ClientWebSocketResponse, got: Received) -> None:
    async for message in socket:
        if message.type is aiohttp.WSMsgType.TEXT:
            event = json.loads(message.data)
            if "prompt_id" in event["data"]:
                got.events.append(event)


def _ended(got: Received) -> set[str]:
    """Return the prompts whose last message has arrived."""
    return {each["data"]["prompt_id"] for each in got.events if _is_last(each)}


def _is_last(event: Mapping[str, Any]) -> bool:
    return event["type"] == "executing" and event["data"]["node"] is None


async def _json(session: aiohttp.ClientSession, path: str) -> Any:
    async with session.get(path) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def _file(session: aiohttp.ClientSession, image: Mapping[str, str]) -> bytes:
    async with session.get(f"/view?{urlencode(image)}") as response:
        assert response.status == 200, await response.text()
        return await response.read()


# --- what is right ---------------------------------------------------------------------------------------------------


async def check_received(users: Sequence[Received], worker: str, *, private: bool) -> None:
    """Check that each user has exactly the events, the history and the pictures of its own prompts.

    Args:
        worker: A server that is queried directly for the picture of each prompt.
        private: /history shows only a user's own prompts, as a gateway's does.
    """
    assert len({id for got in users for id in got.sent}) == len(users) * EACH
    pictures: dict[str, bytes] = {}
    for got in users:
        _check_events(got)
        assert got.entries.keys() == got.sent.keys()
        assert not private or got.history.keys() == got.sent.keys()
        assert got.sent.keys() <= got.history.keys()
        for id, graph in got.sent.items():
            assert got.entries[id]["prompt"][2] == graph
            assert got.entries[id]["status"]["status_str"] == "success"
            [content] = got.files[id]
            picture = Image.open(io.BytesIO(content))
            # ComfyUI writes into a picture the prompt that it was made from.
            assert json.loads(picture.info["prompt"]) == graph
            pictures[id] = picture.tobytes()
    assert len(set(pictures.values())) == len(pictures)
    graphs = {id: graph for got in users for id, graph in got.sent.items()}
    assert await _true_pictures(worker, graphs) == pictures


def _check_events(got: Received) -> None:
    assert {each["data"]["prompt_id"] for each in got.events} == got.sent.keys()
    for id, graph in got.sent.items():
        mine = [each for each in got.events if each["data"]["prompt_id"] == id]
        kinds = [each["type"] for each in mine]
        for once in ("execution_start", "execution_cached", "execution_success", "executed"):
            assert kinds.count(once) == 1, (once, kinds)
        assert sum(map(_is_last, mine)) == 1
        assert _is_last(mine[-1])
        assert kinds[0] == "execution_start"
        cached = next(each["data"]["nodes"] for each in mine if each["type"] == "execution_cached")
        executing = {each["data"]["node"] for each in mine if each["type"] == "executing"} - {None}
        assert executing | {*cached} == graph.keys()
        [saved] = [each["data"]["output"] for each in mine if each["type"] == "executed"]
        assert saved["images"] == got.entries[id]["outputs"][_SAVE]["images"]


async def _true_pictures(worker: str, graphs: Mapping[str, Mapping[str, Any]]) -> dict[str, bytes]:
    """Return the pixels that a server itself makes for each prompt, under another name, so that it saves them again."""
    async with aiohttp.ClientSession(worker) as session:
        ids = {}
        for id, graph in graphs.items():
            renamed = {"class_type": "SaveImage", "inputs": {**graph[_SAVE]["inputs"], "filename_prefix": "true"}}
            async with session.post("/prompt", json={"prompt": {**graph, _SAVE: renamed}}) as response:
                ids[id] = (await response.json())["prompt_id"]
        found = {}
        for id, other in ids.items():
            async with asyncio.timeout(_PATIENCE):
                while not (entry := await _json(session, f"/history/{other}")):
                    await asyncio.sleep(0.05)
            [image] = entry[other]["outputs"][_SAVE]["images"]
            found[id] = Image.open(io.BytesIO(await _file(session, image))).tobytes()
        return found


# --- limits ----------------------------------------------------------------------------------------------------------


async def check_limits(url: str, series: int, at_once: int, error_type: str) -> None:
    """Check that `at_once` prompts of a user are accepted, more refused as by ComfyUI, and nothing else is limited.

    The limit's rate must be so low that no further prompt is allowed while this runs.
    """
    async with (
        aiohttp.ClientSession(url, headers=headers("flooder")) as flooder,
        aiohttp.ClientSession(url, headers=headers("other")) as other,
    ):
        # Each counts as a prompt, whichever of the two routes it takes.
        paths = ["/prompt", "/api/prompt"] * (at_once // 2 + 3)
        answers = [await _post(flooder, path, {"prompt": seeded(series, 0)}) for path in paths]
        statuses = [status for status, _, _ in answers]
        assert statuses == [200] * at_once + [429] * (len(paths) - at_once)
        for _, told, body in answers[at_once:]:
            assert int(told["Retry-After"]) >= 1
            assert told["Content-Type"].startswith("application/json")
            assert (body["error"]["type"], body["node_errors"]) == (error_type, {})
            assert body["error"].keys() == {"type", "message", "details", "extra_info"}
        await _check_unlimited(flooder)
        async with other.ws_connect("/ws?clientId=other") as socket:
            got = Received()
            reader = asyncio.create_task(_listen(socket, got))
            status, _, answer = await _post(other, "/prompt", {"prompt": seeded(series, 1), "client_id": "other"})
            assert status == 200, answer
            async with asyncio.timeout(_PATIENCE):
                while answer["prompt_id"] not in _ended(got):
                    await asyncio.sleep(0.02)
            reader.cancel()


async def _check_unlimited(session: aiohttp.ClientSession) -> None:
    """Check that everything except prompts still works for a user over the limit."""
    for path in ("/prompt", "/queue", "/history", "/system_stats", "/object_info/KSampler", "/api/queue"):
        for _ in range(5):
            await _json(session, path)
    for _ in range(20):
        assert (await _post(session, "/queue", {"delete": []}))[0] == 200
        assert (await _post(session, "/api/history", {"delete": []}))[0] == 200
    for _ in range(10):
        async with session.ws_connect("/ws?clientId=flooder") as socket:
            assert (await socket.receive_json(timeout=30))["type"] == "status"


async def _post(
    session: aiohttp.ClientSession, path: str, body: Mapping[str, Any]
) -> tuple[int, Mapping[str, str], Any]:
    async with session.post(path, json=body) as response:
        text = await response.text()
        return response.status, response.headers, json.loads(text) if text else None
