from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

from pytest_comfyload.simulator.settings import SimulatorSettings
from pytest_comfyload.simulator.virtual_clock import Log, VirtualClock
from tests.simulator.graphs import txt2img
from tests.simulator.talking import talking


def test_only_the_last_300_entries_are_kept() -> None:
    log = Log(VirtualClock(1.0))
    for number in range(310):
        log.write(f"{number}\n")
    kept = [entry["m"] for entry in log.to_json()["entries"]]
    assert kept == [f"{number}\n" for number in range(10, 310)]


def test_the_log_tells_of_loads_and_ends_in_the_words_of_a_real_server() -> None:
    async def talk() -> tuple[Any, Any]:
        async with talking(SimulatorSettings(time_scale=100.0)) as server:
            for seed in (1, 2):
                await server.ended(await server.submit(txt2img(seed, steps=1)))
            async with server.session.get(f"{server.url}/api/internal/logs/raw") as response:
                return await server.get("/internal/logs/raw"), response.status

    log, under_api = asyncio.run(talk())
    told = [entry["m"] for entry in log["entries"]]
    assert [line for line in told if line.startswith("Requested")] == [
        "Requested to load SDXLClipModel\n",
        "Requested to load SDXL\n",
        "Requested to load AutoencoderKL\n",
    ]
    assert told.count("got prompt\n") == 2
    assert sum(line.startswith("Prompt executed in ") and line.endswith(" seconds\n") for line in told) == 2
    assert log["size"] == {"cols": 80, "rows": 24}
    moments = [datetime.fromisoformat(entry["t"]) for entry in log["entries"]]
    assert moments == sorted(moments)
    assert under_api == 404


def test_an_error_in_a_request_is_in_the_log() -> None:
    async def talk() -> tuple[int, str]:
        async with talking(SimulatorSettings()) as server:
            async with server.session.post(f"{server.url}/prompt", data=b"{bad") as response:
                status = response.status
            return status, (await server.get("/internal/logs/raw"))["entries"][-1]["m"]

    status, told = asyncio.run(talk())
    assert status == 500
    assert told.startswith("Error handling request")  # newer versions of aiohttp append the address
    assert "JSONDecodeError" in told
