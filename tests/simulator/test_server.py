from __future__ import annotations

import asyncio
import io
import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from PIL import Image

from pytest_comfyload.simulator.settings import SimulatorSettings
from tests.simulator.graphs import sleep, txt2img
from tests.simulator.talking import Talk, stamps, talking, until

FAST = SimulatorSettings(time_scale=50.0, probe_nodes=True)
LONG = 30.0
"""Seconds that a prompt takes while a test does something: 0.6 s of real time."""


def generation_ms(entry: dict[str, Any]) -> int:
    times = stamps(entry)
    return times["execution_success"] - times["execution_start"]


def test_a_known_time_is_stamped_exactly_at_any_scale() -> None:
    """One millisecond of planning, the sleep, and the PNG; real time does not matter."""

    async def talk(scale: float) -> int:
        async with talking(SimulatorSettings(time_scale=scale, probe_nodes=True)) as server:
            return generation_ms(await server.ended(await server.submit(sleep(2.0))))

    for scale in (20.0, 200.0):
        assert 2001 <= asyncio.run(talk(scale)) <= 2003


def test_equal_settings_and_requests_give_equal_generation_times() -> None:
    async def talk(seed: int) -> list[int]:
        async with talking(SimulatorSettings(time_scale=100.0, seed=seed)) as server:
            ids = [await server.submit(txt2img(seed=number)) for number in range(3)]
            return [generation_ms(await server.ended(prompt_id)) for prompt_id in ids]

    first, again, other = (asyncio.run(talk(seed)) for seed in (1, 1, 2))
    assert all(abs(one - two) <= 1 for one, two in zip(first, again, strict=True)), "rounding of the stamps at most"
    assert first != other
    assert 7_000 < first[1] < 13_000, "an RTX 4090 makes four to eight a minute"


def test_a_prompt_starts_when_the_one_before_it_ends() -> None:
    async def talk() -> list[dict[str, int]]:
        async with talking(FAST) as server:
            ids = [await server.submit(sleep(LONG))]
            ids += [await server.submit(sleep(1.0, seed=number)) for number in range(2, 5)]
            return [stamps(await server.ended(prompt_id)) for prompt_id in ids]

    times = asyncio.run(talk())
    for before, after in pairwise(times):
        assert before["execution_success"] == after["execution_start"]


def test_create_time_is_on_the_clock_of_the_other_stamps() -> None:
    async def talk() -> dict[str, Any]:
        async with talking(FAST) as server:
            await server.submit(sleep(LONG))
            return await server.ended(await server.submit(sleep(1.0, seed=2)))

    entry = asyncio.run(talk())
    waited = stamps(entry)["execution_start"] - entry["prompt"][3]["create_time"]
    assert 0 < waited <= LONG * 1000 + 5


def test_only_the_first_of_several_devices_works() -> None:
    async def talk() -> tuple[Any, Any]:
        async with talking(SimulatorSettings(gpu="h100", devices=8, time_scale=200.0)) as server:
            before = await server.get("/system_stats")
            await server.ended(await server.submit(txt2img()))
            return before["devices"], (await server.get("/system_stats"))["devices"]

    before, after = asyncio.run(talk())
    assert [device["index"] for device in after] == list(range(8))
    assert after[0]["vram_free"] < before[0]["vram_free"]
    assert after[1:] == before[1:]
    assert {device["torch_vram_total"] for device in after[1:]} == {0}


def test_system_stats_tell_the_simulation_and_the_weights_on_the_card() -> None:
    async def talk() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        async with talking(SimulatorSettings(gpu="h100", time_scale=100.0)) as server:
            before = await server.get("/system_stats")
            await server.ended(await server.submit(txt2img()))
            after = await server.get("/api/system_stats")
            await server.post("/free", {"unload_models": True})
            return before, after, await server.get("/system_stats")

    before, after, freed = asyncio.run(talk())
    assert before["system"]["simulator"] == {"time_scale": 100.0, "gpu": "h100", "guessed_times": []}
    assert before["devices"][0]["name"] == "cuda:0 NVIDIA H100 80GB HBM3 : cudaMallocAsync"
    used = before["devices"][0]["vram_free"] - after["devices"][0]["vram_free"]
    assert 6e9 < used < 8e9, "an SDXL checkpoint"
    assert freed["devices"] == before["devices"]


def test_freed_memory_makes_the_next_prompt_cold() -> None:
    async def cached(server: Talk) -> list[str]:
        entry = await server.ended(await server.submit(txt2img(steps=1)))
        return list(entry["status"]["messages"][1][1]["nodes"])

    async def talk() -> list[list[str]]:
        async with talking(FAST) as server:
            found = [await cached(server), await cached(server)]
            await server.post("/free", {"free_memory": True})
            return [*found, await cached(server)]

    assert asyncio.run(talk()) == [[], ["3", "4", "5", "6", "7", "8", "9"], []]


@pytest.mark.parametrize(("mode", "cached"), [("classic", ["5"]), ("ram", ["3", "4", "5", "6", "7", "8", "9"])])
def test_alternating_workflows_lose_each_other_from_the_classic_cache(mode: str, cached: list[str]) -> None:
    async def talk() -> list[Any]:
        async with talking(replace(FAST, cache=mode)) as server:
            found = []
            for checkpoint in ("tiny_sd15.safetensors", "sd_xl_base_1.0.safetensors", "tiny_sd15.safetensors"):
                prompt_id = await server.submit(txt2img(checkpoint=checkpoint, steps=1))
                entry = await server.ended(prompt_id)
                found.append(entry["status"]["messages"][1][1]["nodes"])
            return found

    assert asyncio.run(talk()) == [[], ["5"], cached]


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        ({}, []),
        ({"cache": "ram"}, ["--cache-ram"]),
        ({"cache": "lru=200"}, ["--cache-lru", "200"]),
        ({"cache": "none", "preview_method": "latent2rgb"}, ["--preview-method", "latent2rgb", "--cache-none"]),
        ({"cache": "classic"}, ["--cache-classic"]),
    ],
)
def test_the_command_line_shows_the_cache(settings: dict[str, Any], flags: list[str]) -> None:
    async def talk() -> Any:
        async with talking(replace(FAST, **settings)) as server:
            return (await server.get("/system_stats"))["system"]["argv"]

    assert asyncio.run(talk()) == ["main.py", *flags]


def test_cached_results_fill_the_memory_of_the_machine() -> None:
    async def talk() -> list[int]:
        async with talking(FAST) as server:
            free = [(await server.get("/system_stats"))["system"]["ram_free"]]
            await server.ended(await server.submit(txt2img(steps=1)))
            free.append((await server.get("/system_stats"))["system"]["ram_free"])
            await server.post("/free", {"free_memory": True})
            return [*free, (await server.get("/system_stats"))["system"]["ram_free"]]

    before, after, emptied = asyncio.run(talk())
    assert before - after > 5_000_000_000, "an SDXL checkpoint and a picture"
    assert emptied == before


def test_the_picture_is_there_and_has_the_size_asked_for() -> None:
    async def talk() -> tuple[bytes, bytes]:
        async with talking(FAST) as server:
            entry = await server.ended(await server.submit(txt2img(width=256, height=128, steps=1)))
            (image,) = entry["outputs"]["9"]["images"]
            async with server.session.get(f"{server.url}/view", params=image) as response:
                full = await response.read()
            async with server.session.get(f"{server.url}/view", params=image | {"preview": "webp;60"}) as response:
                return full, await response.read()

    for content, form in zip(asyncio.run(talk()), ("PNG", "WEBP"), strict=True):
        with Image.open(io.BytesIO(content)) as image:
            assert (image.format, image.size) == (form, (256, 128))


def test_an_interrupt_ends_the_running_prompt_at_its_next_step_and_spares_the_next() -> None:
    async def talk() -> tuple[dict[str, Any], dict[str, Any]]:
        async with talking(FAST) as server, server.listening() as socket:
            doomed = await server.submit(sleep(100.0))
            spared = await server.submit(sleep(1.0, seed=2))
            await until(socket, "progress")
            await server.post("/interrupt", {"prompt_id": spared})
            await server.post("/interrupt", {})
            return await server.ended(doomed), await server.ended(spared)

    doomed, spared = asyncio.run(talk())
    assert doomed["status"]["status_str"] == "error"
    times = stamps(doomed)
    assert (times["execution_interrupted"] - times["execution_cached"]) % 10_000 in (0, 1, 9_999)
    assert spared["status"]["status_str"] == "success"


def test_an_interrupt_during_a_node_without_steps_strikes_the_next_node() -> None:
    async def talk() -> dict[str, Any]:
        async with talking(SimulatorSettings(time_scale=2.0)) as server, server.listening() as socket:
            prompt_id = await server.submit(txt2img(steps=1))
            while (await until(socket, "executing"))[-1]["data"]["node"] != "4":
                pass
            await server.post("/interrupt", {"prompt_id": prompt_id})
            return await server.ended(prompt_id)

    event, data = asyncio.run(talk())["status"]["messages"][-1]
    assert event == "execution_interrupted"
    assert (data["node_id"], data["executed"]) == ("5", ["4"])


def test_a_deleted_prompt_leaves_no_trace() -> None:
    async def talk() -> tuple[Any, Any, Any]:
        async with talking(FAST) as server:
            running, deleted = await server.submit(sleep(LONG)), await server.submit(sleep(1.0, seed=2))
            await server.post("/queue", {"delete": [deleted, running]})
            queue = await server.get("/queue")
            await server.ended(running)
            return queue, running, await server.get("/history")

    queue, running, history = asyncio.run(talk())
    assert queue["queue_pending"] == []
    assert [item[1] for item in queue["queue_running"]] == [running]
    assert list(history) == [running]


def test_a_client_that_comes_back_hears_what_runs_and_the_rest() -> None:
    async def talk() -> list[dict[str, Any]]:
        async with talking(FAST) as server:
            async with server.listening() as socket:
                await server.submit(sleep(LONG))
                await until(socket, "progress")
            async with server.listening() as socket:
                return await until(socket, "execution_success")

    events = asyncio.run(talk())
    assert events[0] == {"type": "executing", "data": {"node": "1"}}


def test_events_go_to_the_client_that_submitted_and_progress_of_nobodys_prompt_to_all() -> None:
    async def talk() -> tuple[set[str], str, list[dict[str, Any]]]:
        async with talking(FAST) as server, server.listening("me") as mine, server.listening("other") as other:
            await server.submit(sleep(1.0))
            heard = {event["type"] for event in await until(mine, "execution_success")}
            nobodys = await server.submit(sleep(1.0, seed=2), client_id=None)
            return heard, nobodys, await until(other, "progress")

    heard, nobodys, overheard = asyncio.run(talk())
    assert {"execution_start", "execution_cached", "executing", "progress", "executed"} <= heard
    assert {event["type"] for event in overheard} == {"status", "progress_state", "progress"}
    assert {event["data"]["prompt_id"] for event in overheard if event["type"] != "status"} == {nobodys}


def test_a_cached_prompt_without_client_shows_nothing() -> None:
    async def talk() -> tuple[Any, Any]:
        async with talking(FAST) as server:
            first = await server.ended(await server.submit(sleep(1.0), client_id=None))
            again = await server.ended(await server.submit(sleep(1.0), client_id=None))
            return first["outputs"], again["outputs"]

    first, again = asyncio.run(talk())
    assert first["2"]["images"]
    assert again == {}


def test_out_of_memory_empties_the_card() -> None:
    async def talk() -> tuple[str, Any, Any]:
        async with talking(FAST) as server:
            fresh = await server.get("/system_stats")
            await server.ended(await server.submit(txt2img(steps=1)))
            graph = sleep(0.1) | {"5": {"class_type": "ProbeOOM", "inputs": {"image": ["1", 0]}}}
            graph["2"]["inputs"]["images"] = ["5", 0]
            entry = await server.ended(await server.submit(graph))
            return entry["status"]["messages"][-1][1]["exception_type"], fresh, await server.get("/system_stats")

    kind, fresh, after = asyncio.run(talk())
    assert kind == "torch.OutOfMemoryError"
    assert after["devices"] == fresh["devices"]


def test_a_batch_too_large_for_the_card_runs_out_of_memory_and_a_smaller_one_does_not() -> None:
    async def talk(gpu: str, batch: int) -> tuple[str, dict[str, Any], Any]:
        async with talking(SimulatorSettings(gpu=gpu, time_scale=1000.0)) as server:
            fresh = await server.get("/system_stats")
            entry = await server.ended(await server.submit(txt2img(batch_size=batch, steps=1)))
            event, data = entry["status"]["messages"][-1]
            emptied = (await server.get("/system_stats"))["devices"] == fresh["devices"]
            return event, data, emptied

    event, data, emptied = asyncio.run(talk("rtx3060", 16))
    assert event == "execution_error"
    assert (data["exception_type"], data["node_type"]) == ("torch.OutOfMemoryError", "KSampler")
    assert data["exception_message"].startswith("Allocation on device \nThis error means you ran out of memory")
    assert emptied
    assert asyncio.run(talk("rtx3060", 4))[0] == "execution_success"
    assert asyncio.run(talk("h100", 16))[0] == "execution_success"


def test_twins_kill_the_worker_and_the_server_goes_on_answering() -> None:
    """Two prompts have the same number and id: the second is rejected with status 500 but stays in the queue."""

    async def talk() -> tuple[list[Any], list[Any], str]:
        async with talking(replace(FAST, comfyui_version="0.3.75")) as server:
            running = await server.submit(sleep(LONG))
            twin = {"prompt": sleep(1.0, seed=3), "client_id": "me", "number": 50, "prompt_id": "twin"}
            answers = [await server.post("/prompt", twin), await server.post("/prompt", twin | {"client_id": "you"})]
            await server.submit(sleep(1.0, seed=2))
            assert len((await server.get("/queue"))["queue_pending"]) == 3
            await server.ended(running)
            later = await server.submit(sleep(0.1, seed=4))
            queues = [await server.get("/queue") for _ in range(20)]
            assert await server.get(f"/history/{later}") == {}
            return answers, queues, json.dumps(await server.get("/internal/logs/raw"))

    answers, queues, log = asyncio.run(talk())
    assert answers[0]["prompt_id"] == "twin"
    assert answers[1] == 500
    assert all(queue["queue_running"] == [] and len(queue["queue_pending"]) == 3 for queue in queues)
    assert "TypeError: '<' not supported between instances of 'dict' and 'dict'" in log


def test_whatever_a_node_raises_ends_its_prompt_and_not_the_server() -> None:
    async def talk() -> tuple[Any, Any]:
        async with talking(FAST) as server:
            graph = txt2img(steps=1)
            graph["3"]["inputs"]["model"] = "x"
            failed = await server.ended(await server.submit(graph))
            return failed, await server.ended(await server.submit(txt2img(steps=1)))

    failed, fine = asyncio.run(talk())
    assert failed["status"]["messages"][-1][1]["exception_message"].startswith("'str' object has no attribute")
    assert fine["status"]["status_str"] == "success"


def test_a_hundred_prompts_at_once_are_executed_in_the_order_of_acceptance() -> None:
    async def talk() -> list[int]:
        async with talking(SimulatorSettings(time_scale=1000.0, probe_nodes=True)) as server:
            ids = await asyncio.gather(*(server.submit(sleep(1.0, seed=n), client_id=f"u{n}") for n in range(100)))
            for prompt_id in ids:
                await server.ended(prompt_id)
            return [entry["prompt"][0] for entry in (await server.get("/history")).values()]

    assert asyncio.run(talk()) == list(range(100))
