"""A load result includes the GPU samples of its window, where they came from, and what was lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.clock import Clock
from pytest_comfyload.errors import ConnectionRefused, UsageError
from pytest_comfyload.gpu.spec import parse_specs
from pytest_comfyload.run.gpu_sampling import GpuSampler, GpuWatch
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.run.observer import RunObserver
from pytest_comfyload.run.target import inspect_target
from pytest_comfyload.scenario.scenario import Scenario
from tests.gpu.exporter import Exporter
from tests.gpu.test_prometheus import FIRST, SECOND


def _run(server: ServerAddress, store: Path, **different: Any) -> LoadRun:
    scenario = Scenario.build("txt2img", users=2, iterations=15, fetch=False, max_send_lag="30s")
    return LoadRun(scenario=scenario, servers=(server,), title="t", files=store, store=store, **different)


def test_a_load_on_the_simulator_has_gpu_figures(server: ServerAddress, tmp_path: Path) -> None:
    told: list[str] = []

    class Noting(RunObserver):
        def on_gpus(self, lines: Sequence[str]) -> None:
            told.extend(lines)

    load = run_load(_run(server, tmp_path, observer=Noting()))
    assert told == [f"{server.url}: metrics {server.url}/metrics (NVIDIA GeForce RTX 4090, SIMULATED)"]
    assert load.facts.gpu_sources == tuple(told)
    assert 10 < load.gpu.utilization.mean <= load.gpu.utilization.busy_mean <= 100
    assert 0 < load.gpu.vram.peak < 100
    assert load.gpu.energy.source == "counter"
    assert float(load.gpu.energy) == pytest.approx(float(load.gpu.power.mean) * load.window, rel=0.5)
    assert load.gpu.energy_per_image.n == 30
    assert not [note for note in load.facts.notes if "did not answer" in note]
    (uuid,) = load.gpu.devices
    assert uuid.startswith("GPU-")
    (card,) = load.facts.gpu_facts
    assert (card.server, card.gpu, card.driver) == (server.url, uuid, "simulated")
    assert load.to_dict()["gpu"]["memory_used"]["peak"] == float(load.gpu.memory_used.peak)


def test_no_gpus_are_watched_where_the_user_says_so(server: ServerAddress, tmp_path: Path) -> None:
    load = run_load(_run(server, tmp_path, gpus=parse_specs([f"{server.url}=none"], [server.url])))
    assert load.facts.gpu_usage == ()
    assert load.to_dict()["gpu"] == {}


def test_an_exporter_that_falls_silent_is_a_note_and_no_failure(server: ServerAddress) -> None:
    async def watch() -> GpuWatch:
        async with Exporter() as exporter:
            specs = parse_specs([f"{server.url}=metrics:{exporter.url}"], [server.url])
            gpus = await GpuWatch.of(await inspect_target([server]), specs)
            async with gpus.watching(Clock(100)):
                await exporter.looked(2)
                exporter.text = None
                await exporter.looked(2)
        return gpus

    gpus = asyncio.run(watch())
    assert {sample.gpu for sample in gpus.samples} == {FIRST, SECOND}
    assert [loss for loss in gpus.losses if "did not answer" in loss]


def test_what_the_user_says_must_serve_before_the_load(server: ServerAddress, tmp_path: Path) -> None:
    specs = parse_specs([f"{server.url}=metrics:http://127.0.0.1:9/metrics"], [server.url])
    with pytest.raises(UsageError, match=r"--comfyload-gpu .* connection refused"):
        run_load(_run(server, tmp_path, gpus=specs))
    assert not list(tmp_path.rglob("*.jsonl"))


def test_sampling_by_hand(server: ServerAddress) -> None:
    with GpuSampler(lambda: (server,)).sampling() as usage:
        assert usage.samples == ()
    assert usage.memory_used.peak > 0
    assert usage.utilization.mean >= 0
    assert usage.utilization.busy_mean.n == 0
    assert usage.losses == ()
    assert usage.sources[0].endswith("(NVIDIA GeForce RTX 4090, SIMULATED)")


def test_an_error_in_the_block_and_one_before_it(server: ServerAddress) -> None:
    with pytest.raises(KeyError), GpuSampler(lambda: (server,)).sampling():
        raise KeyError("mine")
    nowhere = GpuSampler(lambda: (ServerAddress("http://127.0.0.1:9"),))
    with pytest.raises(ConnectionRefused), nowhere.sampling():
        pytest.fail("the block must not begin")
