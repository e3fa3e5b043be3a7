"""Every fault as seen from outside: over real sockets, with a client that knows nothing about the simulator."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import aiohttp
import pytest
from PIL import Image

from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.simulator import SimulatorSettings
from tests.simulator.graphs import sleep, txt2img
from tests.simulator.talking import Talk, stamps, talking, until

SCALE = 50.0
TINY: dict[str, Any] = {"checkpoint": "tiny_sd15.safetensors", "width": 64, "height": 64, "steps": 2}
LONG = 30.0
"""Seconds that a prompt takes while a test does something: 0.6 s of real time."""


def faulty(seed: int = 0, scale: float = SCALE, **faults: float) -> SimulatorSettings:
    """Return settings with these faults; underscores in the names stand for hyphens."""
    return having({name.replace("_", "-"): value for name, value in faults.items()}, seed, scale)


def having(faults: Mapping[str, float], seed: int = 0, scale: float = SCALE) -> SimulatorSettings:
    return SimulatorSettings(time_scale=scale, probe_nodes=True, seed=seed, faults=faults)


async def found(server: Talk, prompt_id: str) -> dict[str, Any]:
    """Poll the history for the entry of a prompt, because the sockets of these servers cannot be trusted."""
    while not (entry := await server.get(f"/history/{prompt_id}")):
        await asyncio.sleep(0.01)
    return dict(entry[prompt_id])


async def log_of(server: Talk) -> list[str]:
    return [entry["m"] for entry in (await server.get("/internal/logs/raw"))["entries"]]


async def status_of(server: Talk, method: str, path: str) -> int:
    async with server.session.request(method, server.url + path, json={"prompt": txt2img(**TINY)}) as response:
        return response.status


def last(entry: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the last stamped event of a history entry."""
    event, data = entry["status"]["messages"][-1]
    return event, data


# Faults while a prompt is executed.


def test_an_oom_in_the_sampler_empties_the_card_and_the_next_prompt_loads_anew() -> None:
    async def talk(seed: int) -> tuple[list[Any], list[str]]:
        async with talking(faulty(seed, oom=0.5)) as server:
            ids = [await server.submit(txt2img(n, **TINY)) for n in range(10)]
            return [last(await server.ended(prompt_id)) for prompt_id in ids], await log_of(server)

    ends, log = asyncio.run(talk(1))
    assert ends[0][0] == "execution_success", "this seed begins well"
    failed = [data for event, data in ends if event == "execution_error"]
    assert 0 < len(failed) < 10
    assert {(data["exception_type"], data["node_type"]) for data in failed} == {("torch.OutOfMemoryError", "KSampler")}
    assert failed[0]["exception_message"].startswith("Allocation on device")
    fresh = [event == "execution_success" for event, _ in ends]
    loads = 1 + sum(now and not before for before, now in pairwise(fresh))
    assert log.count("Requested to load BaseModel\n") == loads
    assert [event for event, _ in asyncio.run(talk(1))[0]] == [event for event, _ in ends], "the seed decides"


def test_a_silent_oom_is_a_slower_success_of_which_only_the_log_tells() -> None:
    async def talk(faults: Mapping[str, float]) -> tuple[int, list[str]]:
        async with talking(having(faults)) as server:
            entry = await server.ended(await server.submit(txt2img(steps=1)))
            times = stamps(entry)
            return times["execution_success"] - times["execution_start"], await log_of(server)

    (fine, quiet), (slow, told) = asyncio.run(talk({})), asyncio.run(talk({"silent-oom": 1}))
    assert 900 < slow - fine < 1100, "the decoder's half second on this card, three times instead of once"
    warning = "Warning: Ran out of memory when regular VAE decoding, retrying with tiled VAE decoding.\n"
    assert told.count(warning) == 1
    assert warning not in quiet


@pytest.mark.parametrize(
    ("fault", "event", "told"),
    [
        ("node-error", "execution_error", {"exception_type": "RuntimeError", "node_type": "KSampler"}),
        ("interrupt", "execution_interrupted", {"node_type": "KSampler"}),
    ],
)
def test_a_prompt_ends_in_its_sampler(fault: str, event: str, told: dict[str, str]) -> None:
    async def talk() -> dict[str, Any]:
        async with talking(having({fault: 1})) as server:
            return await server.ended(await server.submit(txt2img(**TINY)))

    entry = asyncio.run(talk())
    assert last(entry)[0] == event
    assert told.items() <= last(entry)[1].items()
    assert entry["status"]["status_str"] == "error"


def test_cached_nodes_have_no_outputs_in_history() -> None:
    async def talk() -> list[Any]:
        async with talking(faulty(cached_empty_outputs=True)) as server:
            return [(await server.ended(await server.submit(txt2img(**TINY))))["outputs"] for _ in range(2)]

    first, again = asyncio.run(talk())
    assert first["9"]["images"]
    assert again == {}


# Faults of the worker and its queue.


def test_a_dead_worker_accepts_and_executes_nothing() -> None:
    async def talk() -> list[Any]:
        async with talking(faulty(dead_worker=2)) as server:
            for seed in range(2):
                await server.ended(await server.submit(sleep(0.1, seed)))
            await server.submit(sleep(0.1, seed=2))
            return [await server.get("/queue") for _ in range(30)]

    for queue in asyncio.run(talk()):
        assert queue["queue_running"] == []
        assert len(queue["queue_pending"]) == 1


def test_a_restart_closes_sockets_refuses_connections_and_forgets_all_but_the_files() -> None:
    async def talk(server: Talk) -> tuple[str, int, Any]:
        async with server.listening() as socket:
            await server.submit(sleep(1.0))
            waiting = await server.submit(sleep(1.0, seed=2))
            (picture,) = (await until(socket, "executed"))[-1]["data"]["output"]["images"]
            while (await socket.receive(timeout=30)).type == aiohttp.WSMsgType.TEXT:
                pass
        refused = 0
        while not (queue := await queue_of(server)):
            refused += 1
            await asyncio.sleep(0.01)
        assert queue == {"exec_info": {"queue_remaining": 0}}
        async with server.session.get(f"{server.url}/view", params=picture) as response:
            assert response.status == 200, "the disk keeps its files"
        again = await server.ended(await server.submit(sleep(1.0, seed=3)))
        assert again["prompt"][0] == 0, "numbers begin anew"
        return waiting, refused, await server.get("/history")

    async def queue_of(server: Talk) -> Any:
        try:
            return await server.get("/prompt")
        except aiohttp.ClientConnectorError:
            return None

    async def run(url: str) -> tuple[str, int, Any]:
        async with aiohttp.ClientSession() as session:
            return await talk(Talk(session, url))

    with SimulatorProcess(time_scale=5.0, probe_nodes=True, faults={"restart": 1}) as process:
        waiting, refused, history = asyncio.run(run(process.url))
    assert refused > 0
    assert waiting not in history
    assert len(history) == 1


def test_somebody_clears_the_queue() -> None:
    async def talk() -> tuple[str, Any, Any]:
        async with talking(faulty(clear_queue=1)) as server:
            first = await server.submit(sleep(LONG))
            for seed in (2, 3):
                await server.submit(sleep(1.0, seed))
            await server.ended(first)
            while (await server.get("/prompt"))["exec_info"]["queue_remaining"]:
                await asyncio.sleep(0.01)
            return first, await server.get("/history"), await server.ended(await server.submit(sleep(0.1, seed=4)))

    first, history, after = asyncio.run(talk())
    assert list(history) == [first]
    assert after["status"]["status_str"] == "success", "it happens once"


def test_somebody_elses_prompts_keep_coming() -> None:
    async def talk() -> tuple[list[Any], Any, Any]:
        async with talking(faulty(foreign=2)) as server:
            before = await server.get("/queue")
            mine = await server.submit(sleep(1.0))
            entry = await server.ended(mine)
            return [*before["queue_running"], *before["queue_pending"]], entry, await server.get("/queue")

    before, mine, after = asyncio.run(talk())
    assert [item[3]["client_id"] for item in before] == ["foreign-client"] * 2
    assert mine["prompt"][0] >= 2, "it was numbered after theirs"
    assert len([*after["queue_running"], *after["queue_pending"]]) == 2


@pytest.mark.parametrize("step", [60.0, -60.0])
def test_the_servers_clock_jumps_once_after_two_prompts(step: float) -> None:
    async def talk() -> list[float]:
        async with talking(faulty(clock_step=step)) as server:
            ids = [await server.submit(sleep(LONG / 3, seed)) for seed in range(4)]
            entries = [await server.ended(prompt_id) for prompt_id in ids]
            starts = [stamps(entry)["execution_start"] for entry in entries]
            assert await server.submit(sleep(0.1))
            return [(after - before) / 1000 for before, after in pairwise(starts)]

    took = asyncio.run(talk())
    assert took == pytest.approx([LONG / 3, LONG / 3 + step, LONG / 3], abs=0.1)


def test_history_knows_of_an_end_only_later() -> None:
    async def talk() -> tuple[Any, Any]:
        async with talking(faulty(history_race=20)) as server, server.listening() as socket:
            prompt_id = await server.submit(sleep(0.1))
            await until(socket, "execution_success")
            at_success = await server.get(f"/history/{prompt_id}")
            while (await until(socket, "executing"))[-1]["data"]["node"] is not None:
                pass
            return at_success, await server.get(f"/history/{prompt_id}")

    at_success, at_end = asyncio.run(talk())
    assert at_success == {}
    assert at_end != {}


# Faults of events.


def test_a_deaf_socket_stays_open_and_hears_nothing() -> None:
    async def talk() -> int:
        async with talking(faulty(deaf_socket=5)) as server, server.listening() as socket:
            await found(server, await server.submit(sleep(1.0)))
            for _ in range(5):
                await socket.receive_json(timeout=30)
            with pytest.raises(TimeoutError):
                await socket.receive(timeout=0.3)
            await socket.ping()
            assert not socket.closed
            async with server.listening("another") as fresh:
                await found(server, await server.submit(sleep(1.0, seed=2), client_id="another"))
                return len(await until(fresh, "execution_start"))

    assert asyncio.run(talk()) > 1, "a new socket hears again, for a while"


def test_sockets_are_dropped_after_so_many_messages() -> None:
    async def talk() -> list[aiohttp.WSMsgType]:
        async with talking(faulty(drop_socket=4)) as server, server.listening() as socket:
            await server.submit(sleep(1.0))
            return [(await socket.receive(timeout=30)).type for _ in range(5)]

    assert asyncio.run(talk()) == [aiohttp.WSMsgType.TEXT] * 4 + [aiohttp.WSMsgType.CLOSE]


def test_a_stalled_socket_hears_everything_late_and_in_order() -> None:
    async def talk(faults: Mapping[str, float]) -> tuple[float, list[str]]:
        async with talking(having(faults, scale=20.0)) as server, server.listening() as socket:
            start = time.monotonic()
            prompt_id = await server.submit(sleep(0.2))
            events = await until(socket, "execution_start")
            late = time.monotonic() - start
            if faults:
                assert await server.get(f"/history/{prompt_id}"), "it is long over"
            return late * 20, [event["type"] for event in [*events, *await until(socket, "execution_success")]]

    (_, fine), (late, stalled) = asyncio.run(talk({})), asyncio.run(talk({"stalled-socket": 10}))
    assert late >= 10
    assert stalled == fine


def test_a_lost_success_is_known_to_history_alone() -> None:
    async def talk() -> tuple[set[str], dict[str, Any]]:
        async with talking(faulty(lost_event=1)) as server, server.listening() as socket:
            prompt_id = await server.submit(sleep(0.1))
            heard: list[Any] = []
            while not heard or heard[-1] != {"type": "executing", "data": {"node": None, "prompt_id": prompt_id}}:
                heard.append(await socket.receive_json(timeout=30))
            return {event["type"] for event in heard}, await found(server, prompt_id)

    heard, entry = asyncio.run(talk())
    assert "executed" in heard
    assert "execution_success" not in heard
    assert last(entry)[0] == "execution_success"


def test_duplicate_events_come_in_pairs() -> None:
    async def talk() -> list[dict[str, Any]]:
        async with talking(faulty(duplicate_event=1)) as server, server.listening() as socket:
            await server.submit(sleep(0.1))
            return [*await until(socket, "execution_success"), await socket.receive_json(timeout=30)]

    events = asyncio.run(talk())
    assert events[::2] == events[1::2]


# Faults of requests.


def test_behind_a_login_every_route_answers_401() -> None:
    async def talk() -> list[int]:
        async with talking(faulty(login=True)) as server:
            routes = [("GET", "/"), ("GET", "/system_stats"), ("POST", "/api/prompt"), ("GET", "/ws"), ("GET", "/view")]
            return [await status_of(server, *route) for route in routes]

    assert set(asyncio.run(talk())) == {401}


def test_a_post_that_fails_with_500_is_not_accepted() -> None:
    async def talk() -> tuple[list[int], int]:
        async with talking(faulty(http_500=0.5)) as server:
            statuses = [await status_of(server, "POST", "/prompt") for _ in range(20)]
            while (await server.get("/prompt"))["exec_info"]["queue_remaining"]:
                await asyncio.sleep(0.01)
            return statuses, len(await server.get("/history"))

    statuses, executed = asyncio.run(talk())
    assert set(statuses) == {200, 500}
    assert executed == statuses.count(200)


def test_after_the_first_prompt_all_routes_answer_503_for_a_while() -> None:
    async def talk() -> list[int]:
        async with talking(faulty(scale=10.0, http_503_burst=5)) as server:
            statuses = [await status_of(server, "GET", "/queue"), await status_of(server, "POST", "/prompt")]
            statuses += [await status_of(server, "GET", path) for path in ("/queue", "/ws", "/api/history")]
            while (status := await status_of(server, "POST", "/prompt")) == 503:
                await asyncio.sleep(0.02)
            return [*statuses, status, await status_of(server, "GET", "/queue")]

    assert asyncio.run(talk()) == [200, 200, 503, 503, 503, 200, 200], "once only"


@pytest.mark.parametrize(
    ("fault", "method", "path"),
    [
        ("slow-post", "POST", "/prompt"),
        ("early-event", "POST", "/api/prompt"),
        ("slow-history", "GET", "/history"),
        ("slow-history", "GET", "/api/history/x"),
        ("slow-view", "GET", "/view?filename=x"),
    ],
)
def test_a_slow_route_takes_its_time_and_the_others_do_not_wait(fault: str, method: str, path: str) -> None:
    async def talk() -> tuple[float, bool]:
        async with talking(having({fault: LONG})) as server:
            start = time.monotonic()
            slow = asyncio.create_task(status_of(server, method, path))
            await status_of(server, "GET", "/system_stats")
            pending = not slow.done()
            await slow
            return (time.monotonic() - start) * SCALE, pending

    took, pending = asyncio.run(talk())
    assert took >= LONG
    assert pending


def test_an_early_event_comes_before_the_answer() -> None:
    async def talk() -> bool:
        async with talking(faulty(early_event=LONG)) as server, server.listening() as socket:
            answer = asyncio.create_task(server.submit(sleep(LONG)))
            await until(socket, "execution_start")
            early = not answer.done()
            await answer
            return early

    assert asyncio.run(talk())


def test_an_evicted_history_never_knows_a_prompt() -> None:
    async def talk() -> list[Any]:
        async with talking(faulty(evicted_history=True)) as server, server.listening() as socket:
            prompt_id = await server.submit(sleep(0.1))
            while (await until(socket, "executing"))[-1]["data"]["node"] is not None:
                pass
            return [await server.get(f"/history/{prompt_id}"), await server.get("/api/history")]

    assert asyncio.run(talk()) == [{}, {}]


async def pictures(settings: SimulatorSettings) -> list[tuple[int, bytes]]:
    """Return the status and content of six images of 64×64."""
    async with talking(settings) as server:
        entry = await server.ended(await server.submit(txt2img(**TINY, batch_size=6)))
        answers = []
        for image in entry["outputs"]["9"]["images"]:
            async with server.session.get(f"{server.url}/view", params=image) as response:
                answers.append((response.status, await response.read()))
        return answers


def test_a_missing_output_stays_missing() -> None:
    statuses = [status for status, _ in asyncio.run(pictures(faulty(missing_output=0.5)))]
    assert set(statuses) == {200, 404}
    assert [status for status, _ in asyncio.run(pictures(faulty(missing_output=0.5)))] == statuses


def test_a_blank_picture_is_black_and_of_the_right_size() -> None:
    for _, content in asyncio.run(pictures(faulty(blank_picture=1))):
        with Image.open(io.BytesIO(content)) as image:
            assert (image.format, image.size) == ("PNG", (64, 64))
            assert image.getextrema() == ((0, 0),) * 3


def test_a_truncated_picture_cannot_be_decoded() -> None:
    for status, content in asyncio.run(pictures(faulty(truncated_picture=1))):
        assert status == 200
        with pytest.raises(OSError, match=r"(?i)truncated"), Image.open(io.BytesIO(content)) as image:
            image.load()


def test_faults_reach_a_process_of_its_own() -> None:
    async def talk(url: str) -> tuple[int, Any]:
        async with aiohttp.ClientSession() as session:
            server = Talk(session, url)
            entry = await found(server, await server.submit(txt2img(**TINY)))
            return await status_of(server, "GET", "/view?filename=x"), json.dumps(entry)

    with SimulatorProcess(time_scale=SCALE, faults={"oom": 1.0, "cached-empty-outputs": True}) as process:
        status, entry = asyncio.run(talk(process.url))
    assert status == 404
    assert "torch.OutOfMemoryError" in entry
