"""The GPU figures of a load reflect the load: its rate, its length, its images and its server."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.scenario.scenario import Scenario

SCALE = 20.0


@pytest.fixture
def cold() -> Iterator[ServerAddress]:
    """A server that has not been warmed up yet."""
    with SimulatorProcess(time_scale=SCALE) as process:
        yield ServerAddress(process.url)


@pytest.fixture
def small() -> Iterator[ServerAddress]:
    with SimulatorProcess(gpu="rtx3060", time_scale=SCALE) as process:
        yield ServerAddress(process.url)


def _load(store: Path, *servers: ServerAddress, **scenario: Any) -> LoadResult:
    scenario = {"workflow": "txt2img", "fetch": False, "max_send_lag": "300s", "seed": 1, **scenario}
    return run_load(LoadRun(Scenario.build(**scenario), servers, "t", store, store))


def test_pictures_beyond_the_card_run_out_of_memory_and_fill_it(small: ServerAddress, tmp_path: Path) -> None:
    load_of = functools.partial(_load, tmp_path, small, users=1, iterations=3, warmup=0)
    size = {"EmptyLatentImage.width": 4096, "EmptyLatentImage.height": 4096}
    ordinary, huge = load_of(), load_of(inputs=size)
    assert ordinary.oom_errors == 0
    assert ordinary.gpu.vram.peak < 50
    assert huge.oom_errors == 3
    assert 95 < huge.gpu.vram.peak <= 100


def test_twice_the_rate_is_twice_the_work_more_power_and_more_heat(cold: ServerAddress, tmp_path: Path) -> None:
    # Each load has its own seeds: what the first one left in the node cache would cause no work.
    half, sized = (
        _load(tmp_path, cold, rate=rate, duration="2m", seed=seed) for seed, rate in enumerate(("18/min", "36/min"))
    )
    # An image takes 1.3 s on the GPU.
    assert 28 < half.gpu.utilization.mean < 50 < 65 < sized.gpu.utilization.mean < 90
    assert float(sized.gpu.utilization.mean) == pytest.approx(2 * float(half.gpu.utilization.mean), rel=0.2)
    assert sized.gpu.power.mean > half.gpu.power.mean.plain + 100
    assert sized.gpu.temperature.max > half.gpu.temperature.max.plain
    # Idle power is shared by more images.
    assert sized.gpu.energy_per_image < half.gpu.energy_per_image.plain


def test_a_longer_load_is_a_hotter_one(cold: ServerAddress, tmp_path: Path) -> None:
    short = _load(tmp_path, cold, users=2, duration="10s", warmup=0, drain=0)
    long = _load(tmp_path, cold, users=2, duration="90s")
    assert short.gpu.temperature.max + 10 < long.gpu.temperature.max


def test_each_server_has_the_figures_of_its_own_gpu(cold: ServerAddress, small: ServerAddress, tmp_path: Path) -> None:
    load = _load(tmp_path, cold, small, rate="12/min", duration="1m", balance="round_robin")
    fast, slow = (load.by("server")[server.url].gpu for server in (cold, small))
    assert set(load.gpu.devices) == {*fast.devices, *slow.devices}
    assert len(load.gpu.devices) == 2
    # Both get the same number of images: the slower card is busy for longer, and has half the memory.
    assert fast.utilization.mean < slow.utilization.mean.plain
    assert fast.vram.peak < slow.vram.peak.plain
    mean = (float(fast.utilization.mean) + float(slow.utilization.mean)) / 2
    assert float(load.gpu.utilization.mean) == pytest.approx(mean, rel=0.1)
    assert float(load.gpu.energy) == pytest.approx(float(fast.energy) + float(slow.energy))
    assert load.gpu.vram.peak.plain == slow.vram.peak.plain
