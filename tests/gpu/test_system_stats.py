"""ComfyUI's own memory figures, per device."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.clock import Clock
from pytest_comfyload.gpu.http_sources import SystemStatsSource, devices_of
from pytest_comfyload.protocol.system_stats import parse_system_stats, used_memory
from pytest_comfyload.result.run_facts import ServerFacts
from pytest_comfyload.result.telemetry import GpuSample
from tests.client.servers import FakeComfy

SYSTEM = {"ram_total": 9, "ram_free": 3, "comfyui_version": "0.3.75", "argv": []}
CUDA = {"name": "cuda:0 NVIDIA H100", "type": "cuda", "index": 0, "vram_total": 100, "vram_free": 40}
APPLE = {"name": "mps", "type": "mps", "index": None, "vram_total": 100, "vram_free": 10}
PROCESSOR = {"name": "cpu", "type": "cpu", "index": None, "vram_total": 100, "vram_free": 10}


def _stats(*devices: dict[str, Any]) -> dict[str, Any]:
    return {"system": SYSTEM, "devices": list(devices)}


def test_every_device_that_the_server_works_on_is_sampled() -> None:
    async def watch() -> tuple[list[GpuSample], SystemStatsSource, str]:
        samples: list[GpuSample] = []
        second = {**CUDA, "index": 1, "vram_free": 30, "torch_vram_total": 20}
        async with FakeComfy(bodies={"/system_stats": _stats(CUDA, second)}) as server:
            source = SystemStatsSource(ServerAddress(server.url), scale=20)
            async with source.watching(samples.append, Clock(scale=20).now):
                pass
        return samples, source, server.url

    samples, source, url = asyncio.run(watch())
    assert [(each.gpu, each.memory_used, each.memory_total) for each in samples] == [
        ("cuda:0", 60.0, 100.0), ("cuda:1", 70.0, 100.0),
    ] * 2  # fmt: skip
    assert {each.server for each in samples} == {url}
    assert {each.utilization for each in samples} == {None}
    assert source.losses == ()


@pytest.mark.parametrize("count", [2, 8])
def test_idle_neighbours_are_not_the_servers(count: int) -> None:
    """Every visible device is listed; the idle ones may contain another program's memory."""
    idle = [{**CUDA, "index": index, "vram_free": 5, "torch_vram_total": 0} for index in range(1, count)]
    stats = parse_system_stats(_stats({**CUDA, "torch_vram_total": 50}, *idle))
    (card,) = devices_of(stats)
    assert (card.gpu, card.values["memory_used"]) == ("cuda:0", 60.0)
    assert used_memory(stats) == (6.0, 60.0)
    assert stats.devices == ("cuda:0 NVIDIA H100",)
    assert [device.name for device in ServerFacts.told_by("u", stats, {}).devices] == ["cuda:0 NVIDIA H100"]


@pytest.mark.parametrize("devices", [[], ["strange", 3], [{}], [{"torch_vram_total": "x"}, {"torch_vram_total": None}]])
def test_a_list_of_devices_that_makes_no_sense(devices: list[Any]) -> None:
    stats = parse_system_stats({"system": SYSTEM, "devices": devices})
    assert len(devices_of(stats)) <= 1


def test_a_processor_is_no_gpu() -> None:
    cards = devices_of(parse_system_stats(_stats(APPLE, PROCESSOR)))
    assert [(card.gpu, card.title) for card in cards] == [("mps", "mps")]
    assert devices_of(parse_system_stats(_stats(PROCESSOR))) == []


def test_a_device_without_figures_has_none() -> None:
    (card,) = devices_of(parse_system_stats(_stats({"name": "x", "type": "xpu", "index": 0})))
    assert card.values == {}
