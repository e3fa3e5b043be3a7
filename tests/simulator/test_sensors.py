from __future__ import annotations

import asyncio
import re
import uuid

from pytest_comfyload.result.telemetry import reasons_of
from pytest_comfyload.simulator.connections import SIMULATOR
from pytest_comfyload.simulator.machine import SimulatedMachine
from pytest_comfyload.simulator.sensors import gpu_metrics
from pytest_comfyload.simulator.server import create_app
from pytest_comfyload.simulator.settings import SimulatorSettings
from pytest_comfyload.simulator.virtual_clock import VirtualClock
from tests.simulator.graphs import sleep, txt2img
from tests.simulator.talking import Talk, talking, until

LINE = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)\{((?:[A-Za-z_]\w*="[^"\\]*",?)+)\} (-?\d+(?:\.\d+)?)')
MIB = 1024**2
CARD = 24 * 1024
"""Memory of an RTX 4090 in MiB."""


def parsed(text: str) -> dict[str, float]:
    """Return values by their name without DCGM_FI_DEV_; every sample is preceded by its HELP and TYPE."""
    values = {}
    lines = text.splitlines()
    for told, typed, sample in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        found = LINE.fullmatch(sample)
        assert found, sample
        name, _, value = found.groups()
        kind = "counter" if name == "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION" else "gauge"
        assert told.startswith(f"# HELP {name} ")
        assert typed == f"# TYPE {name} {kind}"
        values[name.removeprefix("DCGM_FI_DEV_")] = float(value)
    assert text.endswith("\n")
    return values


async def text_of(server: Talk) -> str:
    async with server.session.get(f"{server.url}/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return await response.text()


async def scrape(server: Talk) -> dict[str, float]:
    return parsed(await text_of(server))


def label(text: str, name: str) -> str:
    """Return the value of a label, which must be the same in all samples."""
    (value,) = set(re.findall(rf'{name}="([^"]*)"', text))
    return str(value)


def test_an_idle_server_has_an_idle_gpu() -> None:
    async def talk() -> dict[str, float]:
        async with talking(SimulatorSettings(time_scale=20.0)) as server:
            return await scrape(server)

    values = asyncio.run(talk())
    assert values.pop("TOTAL_ENERGY_CONSUMPTION") >= 0
    assert values == {
        "SM_CLOCK": 210,
        "GPU_TEMP": 27,
        "POWER_USAGE": 20,
        "GPU_UTIL": 0,
        "XID_ERRORS": 0,
        "CLOCKS_EVENT_REASONS": 1,
        "FB_FREE": CARD - 500 - 347,
        "FB_USED": 500,
        "FB_RESERVED": 347,
    }


def test_a_running_sampler_is_seen_in_every_sensor() -> None:
    async def talk() -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
        async with talking(SimulatorSettings(time_scale=20.0)) as server, server.listening() as socket:
            idle = await scrape(server)
            await server.submit(txt2img(steps=150))
            while (event := await socket.receive_json(timeout=30))["type"] != "progress" or event["data"]["value"] < 50:
                pass
            loaded = await scrape(server)
            return idle, loaded, await scrape(server)

    idle, loaded, later = asyncio.run(talk())
    assert loaded["GPU_UTIL"] == 99
    assert loaded["POWER_USAGE"] > 400
    assert loaded["SM_CLOCK"] > 2000
    assert loaded["CLOCKS_EVENT_REASONS"] == 0
    assert loaded["GPU_TEMP"] > idle["GPU_TEMP"] + 10
    assert loaded["FB_USED"] > 8000
    assert all(values["FB_USED"] + values["FB_FREE"] + values["FB_RESERVED"] == CARD for values in (idle, loaded))
    energies = [values["TOTAL_ENERGY_CONSUMPTION"] for values in (idle, loaded, later)]
    assert energies == sorted(energies)
    assert energies[1] - energies[0] > 8_000_000, "millijoules: 21 s at nearly 450 W, and loading"


def test_an_overheating_gpu_says_that_it_is_throttled() -> None:
    def after_100_s_of_work(faults: dict[str, float]) -> dict[str, float]:
        clock = VirtualClock(1.0)
        machine, begin = SimulatedMachine(SimulatorSettings(faults=faults), clock), clock.now()
        machine.activity.spend(begin, begin + 100, 1.0)
        return parsed(gpu_metrics(machine, "GPU-0", begin + 100))

    cool, hot = after_100_s_of_work({}), after_100_s_of_work({"overheat": True})
    assert reasons_of(int(cool["CLOCKS_EVENT_REASONS"])) == ()
    assert reasons_of(int(hot["CLOCKS_EVENT_REASONS"])) == ("sw_thermal",)
    assert hot["SM_CLOCK"] == cool["SM_CLOCK"] // 2
    assert cool["GPU_TEMP"] < 80 < 90 < hot["GPU_TEMP"]


def test_after_the_last_prompt_the_gpu_falls_idle() -> None:
    async def talk() -> list[dict[str, float]]:
        async with talking(SimulatorSettings(time_scale=50.0)) as server, server.listening() as socket:
            prompt_id = await server.submit(txt2img(steps=100))
            await until(socket, "progress")
            scrapes = [await scrape(server)]
            await server.ended(prompt_id)
            scrapes.append(await scrape(server))
            while not scrapes[-1]["CLOCKS_EVENT_REASONS"] and len(scrapes) < 100:
                await asyncio.sleep(0.02)
                scrapes.append(await scrape(server))
            return scrapes

    first, *_, last = asyncio.run(talk())
    assert first["CLOCKS_EVENT_REASONS"] == 0
    assert (last["GPU_UTIL"], last["SM_CLOCK"], last["CLOCKS_EVENT_REASONS"]) == (0, 210, 1)
    assert last["POWER_USAGE"] < first["POWER_USAGE"]
    assert last["FB_USED"] > 5000, "the weights stay"


def test_the_driver_never_sees_less_than_comfyui_says() -> None:
    async def talk() -> list[tuple[float, float]]:
        async with talking(SimulatorSettings(time_scale=100.0)) as server:
            pairs: list[tuple[float, float]] = []
            ids = [await server.submit(txt2img(seed, steps=2)) for seed in range(3)]
            while (await server.get("/queue"))["queue_running"] or not pairs:
                stats, metrics = await asyncio.gather(server.get("/system_stats"), scrape(server))
                device = stats["devices"][0]
                assert device["torch_vram_total"] >= device["torch_vram_free"] >= 0
                assert device["vram_total"] == (metrics["FB_USED"] + metrics["FB_FREE"]) * MIB
                pairs.append((metrics["FB_USED"] * MIB, device["vram_total"] - device["vram_free"]))
            assert [(await server.ended(prompt_id))["status"]["status_str"] for prompt_id in ids] == ["success"] * 3
            return pairs

    # Memory may change between the two responses of a pair, but seldom does.
    pairs = asyncio.run(talk())
    assert sum(driver >= said for driver, said in pairs) >= 0.9 * len(pairs)


def test_a_node_of_the_cpu_leaves_the_gpu_idle() -> None:
    async def talk() -> dict[str, float]:
        async with (
            talking(SimulatorSettings(time_scale=50.0, probe_nodes=True)) as server,
            server.listening() as socket,
        ):
            await server.submit(sleep(20.0))
            await until(socket, "progress")
            return await scrape(server)

    values = asyncio.run(talk())
    assert (values["GPU_UTIL"], values["CLOCKS_EVENT_REASONS"], values["POWER_USAGE"]) == (0, 1, 20)


def test_the_gpu_is_named_by_a_uuid_of_its_own_that_stays() -> None:
    async def talk() -> list[str]:
        async with talking(SimulatorSettings()) as one, talking(SimulatorSettings()) as two:
            return [await text_of(server) for server in (one, one, two)]

    texts = asyncio.run(talk())
    first, again, other = (label(text, "UUID") for text in texts)
    assert first == again != other
    assert str(uuid.UUID(first.removeprefix("GPU-"))) == first.removeprefix("GPU-")
    assert label(texts[0], "modelName") == "NVIDIA GeForce RTX 4090"
    assert (label(texts[0], "gpu"), label(texts[0], "device")) == ("0", "nvidia0")


def test_the_sensors_are_no_part_of_comfyui_s_api() -> None:
    async def talk() -> int:
        async with talking(SimulatorSettings()) as server, server.session.get(f"{server.url}/api/metrics") as response:
            return response.status

    assert asyncio.run(talk()) == 404


def test_a_restart_of_the_server_is_none_of_the_gpu() -> None:
    """The energy counter continues; the VRAM of the process is freed."""
    before = create_app(SimulatorSettings())[SIMULATOR]
    now = before.clock.now()
    before.machine.activity.spend(now, now + 100.0, 1.0)
    before.machine.activity.rest()
    before.machine.vram.work(1000)
    machine = create_app(SimulatorSettings(), before)[SIMULATOR].machine
    assert machine.activity.read(now + 100.0).condition.energy > 40_000
    assert machine.vram.reserved(now + 100.0) == 0
