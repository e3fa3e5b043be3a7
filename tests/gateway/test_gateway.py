"""A gateway is one ComfyUI to its clients: over real Redis, real sockets, and simulators as workers."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import aiohttp
import pytest
import redis

from pytest_comfyload.simulator.settings import SimulatorSettings
from tests.gateway.pictures import png
from tests.gateway.serving import FAST, User, gateway_over
from tests.simulator.graphs import sleep, txt2img
from tests.simulator.talking import stamps, talking, until

LONG = 100.0
"""Duration of a prompt during which a test does something, in seconds: 2 s of wall-clock time."""


def image_of(events: list[dict[str, Any]]) -> dict[str, str]:
    [executed] = [event["data"] for event in events if event["type"] == "executed"]
    image: dict[str, str] = executed["output"]["images"][0]
    return image


def form(name: str, color: int, **fields: str) -> aiohttp.FormData:
    """Return the form that uploads a picture."""
    made = aiohttp.FormData(fields)
    made.add_field("image", png(color), filename=name, content_type="image/png")
    return made


def test_twelve_clients_over_three_workers_get_their_own_events_history_and_pictures(redis_url: str) -> None:
    """Workers write files with the same names: each client must get its own picture."""

    async def one(ann: User, number: int) -> tuple[str, bytes]:
        async with ann.listening(f"c{number}") as socket:
            id = await ann.submit(txt2img(seed=number, steps=2, width=64, height=64), client_id=f"c{number}")
            events = await until(socket, "execution_success")
            entry = (await ann.get(f"/history/{id}"))[id]
            mine = [event for event in events if event["type"] not in ("status",)]
            assert {event["data"]["prompt_id"] for event in mine} == {id}
            assert entry["outputs"]["9"]["images"][0] == image_of(events)
            assert (await until(socket, "executing"))[-1]["data"]["node"] is None
            return image_of(events)["subfolder"], await ann.picture(image_of(events))

    async def talk() -> list[tuple[str, bytes]]:
        async with gateway_over(redis_url, workers=3) as [ann]:
            return await asyncio.gather(*(one(ann, number) for number in range(12)))

    done = asyncio.run(talk())
    assert {folder for folder, _ in done} == {"w1", "w2", "w3"}
    assert len({picture for _, picture in done}) == 12


def test_events_come_in_the_order_of_a_worker_and_the_result_before_its_news(redis_url: str) -> None:
    async def talk() -> tuple[list[str], dict[str, Any]]:
        async with gateway_over(redis_url) as [ann], ann.listening() as socket:
            id = await ann.submit(sleep(5.0))
            events = await until(socket, "execution_success")
            return [event["type"] for event in events], (await ann.get(f"/history/{id}"))[id]

    kinds, entry = asyncio.run(talk())
    told = [kind for kind in dict.fromkeys(kinds) if kind != "status"]
    assert told == ["execution_start", "execution_cached", "progress_state", "executing", "progress", "executed",
                    "execution_success"]  # fmt: skip
    times = stamps(entry)
    assert entry["prompt"][3]["create_time"] <= times["execution_start"] <= times["execution_success"]
    assert times["execution_success"] - times["execution_start"] == pytest.approx(5001, abs=3)


def test_a_prompt_is_judged_in_the_words_of_a_worker(redis_url: str) -> None:
    broken: list[dict[str, Any]] = []
    for name, value in [
        ("steps", 0), ("cfg", 1e9), ("steps", "many"), ("sampler_name", "none"), ("model", ["5", 0]),
        ("latent_image", ["5"]), ("model", ["4", 9]), ("latent_image", ["77", 0]), ("positive", ["8", 0]),
    ]:  # fmt: skip
        broken.append(txt2img())
        broken[-1]["3"]["inputs"][name] = value
    for node, name in [("3", "steps"), ("8", "vae")]:
        broken.append(txt2img())
        del broken[-1][node]["inputs"][name]
    broken += [{}, {"1": {"inputs": {}}}, {"1": {"class_type": "Nope", "inputs": {}}}]
    broken.append({id: node for id, node in txt2img().items() if id != "9"})
    broken[-1]["10"] = {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}}
    partial = txt2img() | {"10": {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}}}
    strict = SimulatorSettings(time_scale=50.0, probe_nodes=True, strict=True, comfyui_version="0.33.0")

    async def talk() -> list[tuple[Any, Any]]:
        async with gateway_over(redis_url, simulated=strict) as [ann], talking(strict) as server:
            answers = [
                (await ann.post("/prompt", {"prompt": each}), await server.post("/prompt", {"prompt": each}))
                for each in broken
            ]
            return [*answers, *[(await each.post("/prompt", {"prompt": partial}), 0) for each in (ann, server)]]

    *refused, (ours, _), (theirs, _) = asyncio.run(talk())
    for gateway, worker in refused:
        for said in (gateway, worker):
            for node in said["node_errors"].values():
                for error in node["errors"]:
                    error["extra_info"].pop("traceback", None)
        assert gateway == worker
    assert ours["node_errors"] == theirs["node_errors"] != {}


def test_what_only_a_worker_can_refuse_ends_as_an_error_with_an_entry(redis_url: str) -> None:
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "nowhere.png"}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    strict = SimulatorSettings(time_scale=50.0, strict=True)

    async def talk() -> tuple[dict[str, Any], dict[str, Any]]:
        async with gateway_over(redis_url, simulated=strict) as [ann], ann.listening() as socket:
            id = await ann.submit(graph)
            [*_, error] = await until(socket, "execution_error")
            return error["data"], (await ann.get(f"/history/{id}"))[id]

    error, entry = asyncio.run(talk())
    assert error["exception_type"] == "PromptRejected"
    assert "nowhere.png" in error["exception_message"]
    assert (error["node_id"], error["node_type"]) == ("1", "LoadImage")
    assert entry["status"]["status_str"] == "error"
    assert entry["status"]["messages"][-1][0] == "execution_error"


def test_a_second_post_of_an_id_is_answered_like_the_first_and_runs_once(redis_url: str) -> None:
    async def talk() -> tuple[list[Any], list[str], Any]:
        async with gateway_over(redis_url, users=("ann", "bob")) as [ann, bob]:
            id = str(uuid.uuid4())
            body = {"prompt": sleep(1.0), "prompt_id": id}
            answers = [
                await ann.post("/prompt", body),
                await ann.post("/prompt", body),
                await bob.post("/prompt", body),
            ]
            await ann.ended(id)
            answers.append(await ann.post("/prompt", body))
            return answers, list(await ann.get("/history")), await bob.get("/history")

    (first, again, foreign, late), history, foreign_history = asyncio.run(talk())
    assert first == again == late
    assert foreign["error"]["type"] == "invalid_prompt_id"
    assert history == [first["prompt_id"]]
    assert foreign_history == {}


@pytest.mark.parametrize("id", ["x", 7, "C0FFEE00-0000-4000-8000-000000000000", None])
def test_an_id_that_is_no_canonical_uuid_is_refused(redis_url: str, id: object) -> None:
    async def talk() -> Any:
        async with gateway_over(redis_url) as [ann]:
            return await ann.post("/prompt", {"prompt": sleep(1.0), "prompt_id": id})

    assert asyncio.run(talk())["error"]["type"] == "invalid_prompt_id"


def test_prompts_wait_up_to_the_bound_and_one_more_is_told_when_to_come_again(redis_url: str) -> None:
    async def talk() -> list[tuple[int, str | None, str | None]]:
        answers = []
        async with gateway_over(redis_url, max_waiting=5) as [ann]:
            await ann.submit(sleep(LONG))
            while not (await ann.get("/queue"))["queue_running"]:
                await asyncio.sleep(0.01)
            for number in range(8):
                body = {"prompt": sleep(1.0, seed=number + 2)}
                async with ann.session.post(ann.url + "/prompt", json=body) as response:
                    error = (await response.json()).get("error", {}).get("type")
                    answers.append((response.status, response.headers.get("Retry-After"), error))
        return answers

    assert asyncio.run(talk()) == [(200, None, None)] * 5 + [(429, "10", "queue_full")] * 3


def test_a_redis_without_memory_refuses_prompts_until_it_has_some(redis_url: str) -> None:
    async def talk() -> list[int]:
        async with gateway_over(redis_url) as [ann]:
            answers = []
            with redis.Redis.from_url(redis_url) as client:
                for most in ("1", "0"):  # bytes; 0 means no limit
                    client.config_set("maxmemory", most)
                    answers.append(await ann.status("POST", "/prompt", json={"prompt": sleep(0.1)}))
            return answers

    assert asyncio.run(talk()) == [429, 200]


def test_each_user_has_an_own_rate(redis_url: str) -> None:
    async def talk() -> list[list[int]]:
        async with gateway_over(redis_url, users=("ann", "bob"), rate=1 / 60, burst=2) as users:
            return [
                [await each.status("POST", "/prompt", json={"prompt": sleep(1.0, seed=n)}) for n in range(5)]
                for each in users
            ]

    assert asyncio.run(talk()) == [[200, 200, 200, 429, 429]] * 2


def test_a_user_sees_and_changes_own_prompts_only(redis_url: str) -> None:
    async def talk() -> None:
        async with gateway_over(redis_url, users=("ann", "bob")) as [ann, bob], ann.listening() as socket:
            running = await ann.submit(sleep(LONG))
            await until(socket, "progress")
            waiting = await ann.submit(sleep(1.0, seed=2))
            await bob.submit(sleep(1.0, seed=3))
            queues = [await each.get("/queue") for each in (ann, bob)]
            assert [[item[1] for item in queues[0][key]] for key in ("queue_running", "queue_pending")] == [
                [running],
                [waiting],
            ]
            assert [len(queues[1][key]) for key in ("queue_running", "queue_pending")] == [0, 1]
            assert (await bob.get("/prompt"))["exec_info"]["queue_remaining"] == 3
            # All of these prompts belong to ann.
            await bob.post("/queue", {"delete": [waiting, running]})
            await bob.post("/interrupt", {"prompt_id": running})
            await bob.post("/interrupt", {})
            await bob.post("/queue", {"clear": True})
            queue = await ann.get("/queue")
            assert len(queue["queue_running"]) == len(queue["queue_pending"]) == 1
            assert (await bob.get("/prompt"))["exec_info"]["queue_remaining"] == 2
            await ann.post("/queue", {"clear": True})
            await ann.post("/interrupt", {"prompt_id": running})
            [*_, event] = await until(socket, "execution_interrupted")
            assert event["data"]["prompt_id"] == running
            assert await ann.get(f"/history/{waiting}") == {}
            entry = (await ann.get(f"/history/{running}"))[running]
            assert entry["status"]["messages"][-1][0] == "execution_interrupted"
            assert await bob.get(f"/history/{running}") == await bob.get("/history") == {}
            await bob.post("/history", {"delete": [running], "clear": True})
            assert list(await ann.get("/history")) == [running]
            await ann.post("/history", {"clear": True})
            assert await ann.get("/history") == {}

    asyncio.run(talk())


def test_events_of_a_client_id_are_not_told_to_another_user(redis_url: str) -> None:
    async def talk() -> list[bool]:
        async with (
            gateway_over(redis_url, users=("ann", "bob")) as [ann, bob],
            ann.listening("same") as mine,
            bob.listening("same") as foreign,
        ):
            await ann.submit(sleep(1.0), client_id="same")
            await until(mine, "execution_success")
            own = await bob.submit(sleep(1.0, seed=2), client_id="same")
            events = await until(foreign, "execution_success")
            return [event["data"].get("prompt_id", own) == own for event in events if event["type"] != "status"]

    assert all(asyncio.run(talk()))


def test_a_picture_of_another_user_is_not_found(redis_url: str) -> None:
    async def talk() -> list[int]:
        async with gateway_over(redis_url, users=("ann", "bob")) as [ann, bob]:
            entry = await ann.ended(await ann.submit(sleep(1.0)))
            image = entry["outputs"]["2"]["images"][0]
            tried = [image, image | {"subfolder": ""}, image | {"subfolder": "w1/../w1"}, image | {"type": "temp"}]
            found = [await each.status("GET", "/view", params=image) for each in (ann, bob)]
            return [*found, *[await bob.status("GET", "/api/view", params=each) for each in tried]]

    assert asyncio.run(talk()) == [200, 404, 404, 404, 404, 404]


def test_an_upload_is_on_each_worker_and_another_user_cannot_use_it(redis_url: str) -> None:
    async def upload(user: User, name: str, color: int) -> dict[str, str]:
        async with user.session.post(user.url + "/upload/image", data=form(name, color)) as response:
            stored: dict[str, str] = await response.json()
            return stored

    def graph(name: str) -> dict[str, Any]:
        return {
            "1": {"class_type": "LoadImage", "inputs": {"image": name}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "u"}},
        }

    strict = SimulatorSettings(time_scale=50.0, strict=True)

    async def talk() -> tuple[list[dict[str, str]], set[str], Any, int]:
        async with gateway_over(redis_url, workers=2, users=("ann", "bob"), simulated=strict) as [ann, bob]:
            stored = [await upload(ann, "a.png", 1), await upload(bob, "a.png", 2)]
            ids = [await ann.submit(graph(stored[0]["name"]), client_id=None) for _ in range(6)]
            entries = [await ann.ended(id) for id in ids]
            states = {entry["status"]["status_str"] for entry in entries}
            refused = await bob.post("/prompt", {"prompt": graph(stored[0]["name"])})
            query = {"filename": "a.png", "type": "input"}
            return stored, states, refused, await bob.status("GET", "/view", params=query)

    stored, states, refused, seen = asyncio.run(talk())
    assert stored[0]["name"] == "a.png" != stored[1]["name"]
    assert states == {"success"}
    assert refused["error"]["details"] == "Invalid image file: a.png"
    assert seen == 404


def test_a_prompt_can_read_the_outputs_of_its_user_alone(redis_url: str) -> None:
    def reading(image: dict[str, str], color: int) -> dict[str, Any]:
        name = f"{image['subfolder']}/{image['filename']} [output]"
        return {
            "1": {"class_type": "LoadImage", "inputs": {"image": name}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": f"again{color}"}},
        }

    strict = SimulatorSettings(time_scale=50.0, strict=True, probe_nodes=True)

    async def talk() -> tuple[set[str], Any, list[int]]:
        async with gateway_over(redis_url, workers=2, users=("ann", "bob"), simulated=strict) as [ann, bob]:
            states = set()
            for number in range(3):
                entry = await ann.ended(await ann.submit(sleep(0.1, seed=number)))
                image = entry["outputs"]["2"]["images"][0]
                again = await ann.ended(await ann.submit(reading(image, number)))
                states.add(again["status"]["status_str"])
            refused = await bob.post("/prompt", {"prompt": reading(image, 9)})
            mask = {"original_ref": json.dumps(image)}
            uploads = [
                await bob.status("POST", "/upload/image", data=form("x.png", 1, type="output")),
                await bob.status("POST", "/upload/image", data=form("x.png", 1, subfolder="a/..")),
                await bob.status("POST", "/upload/mask", data=form("x.png", 1, **mask)),
                await ann.status("POST", "/upload/mask", data=form("x.png", 1, **mask)),
            ]
            return states, refused, uploads

    states, refused, uploads = asyncio.run(talk())
    assert states == {"success"}
    assert refused["error"]["details"].startswith("Invalid image file: ")
    assert uploads == [400, 400, 404, 200]


def test_a_client_that_comes_again_gets_the_ends_that_it_missed(redis_url: str) -> None:
    """Once if it names the last event it received; otherwise starting at the last one it has certainly received."""

    async def talk() -> list[list[str]]:
        async with gateway_over(redis_url) as [ann]:
            async with ann.listening() as socket:
                ids = [await ann.submit(sleep(1.0))]
                await until(socket, "execution_success")
                last = (await until(socket, "executing"))[-1]["data"]["event_id"]
            ids.append(await ann.submit(sleep(1.0, seed=2)))
            await ann.ended(ids[1])
            heard = []
            for query in (f"&lastEventId={last}", ""):
                async with ann.session.ws_connect(f"{ann.url}/ws?clientId=me{query}") as socket:
                    ids.append(await ann.submit(sleep(1.0, seed=len(ids) + 1)))
                    ends: list[str] = []
                    while ids[-1] not in ends:
                        ends.append((await until(socket, "execution_success"))[-1]["data"]["prompt_id"])
                    heard.append(ends)
            return [ids, *heard]

    ids, named, unnamed = asyncio.run(talk())
    assert named == ids[1:3]
    assert unnamed == ids[4 - len(unnamed) :]


def test_a_client_that_does_not_read_delays_no_other(redis_url: str) -> None:
    async def talk() -> tuple[int, str]:
        previews = SimulatorSettings(time_scale=200.0, preview_method="latent2rgb")
        async with (
            gateway_over(redis_url, users=("ann", "bob"), simulated=previews) as [ann, bob],
            ann.session.ws_connect(f"{ann.url}/ws?clientId=deaf") as deaf,
            bob.listening() as socket,
        ):
            connection = deaf._response.connection
            assert connection is not None
            assert connection.transport is not None
            connection.transport.pause_reading()
            for number in range(6):
                await ann.submit(txt2img(seed=number, steps=40), client_id="deaf")
            await bob.submit(txt2img(seed=99, steps=5))
            events = await until_text(socket, "execution_success")
            connection.transport.abort()
            return len(events), await bob.text("/metrics")

    count, metrics = asyncio.run(talk())
    assert count > 5
    assert 'comfyload_gateway_prompts_ended_total{status="success",worker="w1"}' in metrics


async def until_text(socket: aiohttp.ClientWebSocketResponse, event: str) -> list[dict[str, Any]]:
    """Return the events up to `event`, like `until`, but without previews."""
    events: list[dict[str, Any]] = []
    while not events or events[-1]["type"] != event:
        message = await socket.receive(timeout=30)
        if message.type is aiohttp.WSMsgType.TEXT:
            events.append(json.loads(message.data))
    return events


def test_every_route_is_under_api_too_and_tells_of_all_workers(redis_url: str) -> None:
    async def talk() -> tuple[Any, ...]:
        async with gateway_over(redis_url, workers=2) as [ann]:
            for prefix in ("", "/api"):
                for path in ("/prompt", "/queue", "/history", "/system_stats", "/object_info", "/object_info/KSampler",
                             "/features", "/embeddings", "/models", "/models/checkpoints"):  # fmt: skip
                    assert await ann.status("GET", prefix + path) == 200, prefix + path
            assert await ann.status("POST", "/api/free", json={"unload_models": True}) == 200
            assert await ann.status("GET", "/healthz") == 200
            return (
                await ann.get("/system_stats"),
                await ann.get("/object_info/KSampler"),
                await ann.get("/object_info/No"),
            )

    stats, known, unknown = asyncio.run(talk())
    assert len(stats["devices"]) == 2
    assert stats["system"]["simulator"]["time_scale"] == FAST.time_scale
    assert list(known) == ["KSampler"]
    assert unknown == {}


def test_bad_requests_are_the_clients_fault(redis_url: str) -> None:
    async def talk() -> list[int]:
        async with gateway_over(redis_url) as [ann]:
            return [
                await ann.status("POST", "/prompt", data="{not json"),
                await ann.status("POST", "/prompt", json=[1]),
                await ann.status("POST", "/prompt", json={"prompt": []}),
                await ann.status("POST", "/prompt", json={"prompt": {"1": []}}),
                await ann.status("POST", "/prompt", json={"prompt": {"1": {"class_type": ["x"]}}}),
                await ann.status("GET", "/history?max_items=x"),
                await ann.status("GET", "/view"),
                await ann.status("POST", "/upload/image", data={"image": "text"}),
                await ann.status("GET", "/no-such-route"),
            ]

    assert asyncio.run(talk()) == [400, 400, 400, 400, 400, 400, 400, 400, 404]
