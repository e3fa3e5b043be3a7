"""What the sensors show while whole queues run, on a clock that jumps instead of waiting: the same on every machine."""

from __future__ import annotations

import asyncio
import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from pytest_comfyload.simulator.events import Hub
from pytest_comfyload.simulator.execution import Worker
from pytest_comfyload.simulator.gpu_model import Reading
from pytest_comfyload.simulator.machine import CONTEXT, SimulatedMachine
from pytest_comfyload.simulator.queue import PromptHistory, PromptQueue, QueuedPrompt
from pytest_comfyload.simulator.settings import SimulatorSettings
from pytest_comfyload.simulator.virtual_clock import VirtualClock
from tests.simulator.graphs import sleep, txt2img

START = 1_000_000.0


class _AllDone(Exception):
    """The last prompt has finished."""


class JumpingClock(VirtualClock):
    """A clock that jumps to the time being waited for; calls `watch` at every full second on the way."""

    def __init__(self) -> None:
        super().__init__(1.0)
        self.watch: Callable[[float], None] = lambda moment: None
        self._now = START

    def now(self) -> float:
        return self._now

    async def until(self, moment: float) -> None:
        while math.floor(self._now) + 1 <= moment:
            self._now = float(math.floor(self._now) + 1)
            self.watch(self._now)
        self._now = max(self._now, moment)


class LastHistory(PromptHistory):
    """A history that stops the worker after the last of `prompts` prompts."""

    def __init__(self, prompts: int) -> None:
        super().__init__()
        self._left = prompts

    def add(self, *entry: Any) -> None:
        super().add(*entry)
        self._left -= 1
        if not self._left:
            raise _AllDone


@dataclass(frozen=True)
class Second:
    """One reading of the card; memory in bytes."""

    reading: Reading
    reserved: int
    used: int


def watched(settings: SimulatorSettings, graphs: Sequence[dict[str, Any]], arrivals: Sequence[float]) -> list[Second]:
    """Return one reading per second until the last prompt finished; `arrivals` are seconds after the start."""
    clock = JumpingClock()
    machine = SimulatedMachine(settings, clock)
    seconds: list[Second] = []

    def look(moment: float) -> None:
        reserved = machine.vram.reserved(moment)
        seconds.append(Second(machine.activity.read(moment), reserved, machine.vram.used))

    clock.watch = look
    executor = Worker(machine, clock, PromptQueue(lambda: None), LastHistory(len(graphs)), Hub(), previews=False)
    for number, (graph, arrival) in enumerate(zip(graphs, arrivals, strict=True)):
        outputs = [node for node, content in graph.items() if content["class_type"] == "SaveImage"]
        executor.submit(QueuedPrompt(number, f"p{number}", graph, {}, outputs, START + arrival))
    with pytest.raises(_AllDone):
        asyncio.run(executor.work())
    return seconds


def mean_utilization(seconds: Sequence[Second]) -> float:
    return statistics.fmean(second.reading.utilization for second in seconds)


@pytest.mark.parametrize("gpu", ["rtx3060", "rtx4090", "h100"])
def test_a_saturated_queue_reads_high_but_has_its_gaps(gpu: str) -> None:
    seconds = watched(SimulatorSettings(gpu=gpu), [txt2img(seed) for seed in range(30)], [0.0] * 30)
    loaded = seconds[20:]
    assert 90 < mean_utilization(loaded) < 99.5
    assert max(second.reading.utilization for second in loaded) >= 98
    assert min(second.reading.utilization for second in loaded) < 95


def test_an_open_load_at_half_of_the_capacity_reads_about_half() -> None:
    rng = random.Random(7)
    service, at = 9.3, 0.0
    arrivals = [at := at + rng.expovariate(0.5 / service) for _ in range(300)]
    seconds = watched(SimulatorSettings(), [txt2img(seed) for seed in range(300)], arrivals)
    assert 45 < mean_utilization(seconds) < 55
    powers = [second.reading.condition.power for second in seconds]
    assert statistics.fmean(powers) == pytest.approx(20 + 430 * mean_utilization(seconds) / 100, rel=0.02)


def test_the_counter_agrees_with_the_power_that_was_read() -> None:
    rng, at = random.Random(3), 0.0
    arrivals = [at := at + rng.expovariate(1 / 12) for _ in range(100)]
    seconds = watched(SimulatorSettings(), [txt2img(seed) for seed in range(100)], arrivals)
    joules = seconds[-1].reading.condition.energy - seconds[0].reading.condition.energy
    assert joules == pytest.approx(sum(second.reading.condition.power for second in seconds[1:]), rel=0.01)


def test_work_of_the_cpu_is_none_of_the_gpu() -> None:
    seconds = watched(SimulatorSettings(probe_nodes=True), [sleep(20.0)], [0.0])
    assert len(seconds) == 20
    assert mean_utilization(seconds) == 0


def test_loading_a_model_leaves_the_multiprocessors_nearly_idle() -> None:
    """An SDXL checkpoint takes 3.5 s from disk and 1.2 s over the bus; a tiny image needs little GPU time.

    Most of it goes into encoding the texts: 60 percent of 0.4 s.
    """
    seconds = watched(SimulatorSettings(gpu="rtx3060"), [txt2img(1, steps=1, width=64, height=64)], [0.0])
    assert (seconds[2].reading.utilization, seconds[2].used) == (0, 0)
    assert 0.2 < sum(second.reading.utilization for second in seconds) / 100 < 0.5


def test_temperature_rises_under_load_and_falls_after_it() -> None:
    seconds = watched(SimulatorSettings(), [txt2img(seed) for seed in range(21)], [0.0] * 20 + [600.0])
    temperatures = [second.reading.condition.temperature for second in seconds]
    hottest = temperatures.index(max(temperatures[:300]))
    assert temperatures[0] < 28
    assert 60 < temperatures[hottest] < 68
    assert temperatures[10:110:10] == sorted(temperatures[10:110:10])
    falling = temperatures[hottest + 2 : 600]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] < 28


def test_a_gpu_that_overheats_becomes_hot_and_takes_twice_as_long() -> None:
    graphs = [txt2img(steps=150)]
    cool, hot = (watched(SimulatorSettings(faults=faults), graphs, [0.0]) for faults in ({}, {"overheat": True}))
    assert len(hot) == pytest.approx(2 * len(cool), rel=0.1), "all but reading the model from disk"
    assert hot[-1].reading.condition.temperature > 90


def test_the_driver_sees_all_that_torch_uses_and_what_torch_keeps_back() -> None:
    seconds = watched(SimulatorSettings(), [txt2img(seed) for seed in range(10)], [0.0] * 10)
    assert all(second.reserved >= second.used for second in seconds)
    assert any(second.reserved > second.used for second in seconds), "while the picture is saved"


def test_a_model_swap_is_seen_in_the_memory() -> None:
    """A 12 GB card has room for one SDXL checkpoint and its working set, not for two."""
    names = ["one_xl.safetensors", "two_xl.safetensors"]
    settings = SimulatorSettings(gpu="rtx3060", cache="classic", models={"checkpoints": names})
    graphs = [txt2img(seed, checkpoint=names[seed % 2], steps=4) for seed in range(6)]
    swapping = watched(settings, graphs, [0.0] * 6)
    staying = watched(settings, [txt2img(seed, checkpoint=names[0], steps=4) for seed in range(6)], [0.0] * 6)
    most = SimulatedMachine(settings, JumpingClock()).vram.total
    assert max(second.reserved for second in staying) < max(second.reserved for second in swapping) <= most
    assert len(swapping) > len(staying) + 10
    assert mean_utilization(swapping) < mean_utilization(staying) - 10


def test_running_out_of_memory_fills_the_card_and_then_empties_it() -> None:
    """A batch of sixteen images does not fit next to the weights; a single image afterwards does."""
    settings = SimulatorSettings(gpu="rtx3060")
    graphs = [txt2img(1, steps=1), txt2img(2, steps=1, batch_size=16), txt2img(3, steps=1)]
    seconds = watched(settings, graphs, [0.0, 60.0, 120.0])
    usable = SimulatedMachine(settings, JumpingClock()).gpu.usable
    assert max(CONTEXT + second.reserved for second in seconds[:60]) < 0.8 * usable
    assert max(CONTEXT + second.reserved for second in seconds[60:90]) == usable
    assert seconds[100].reserved == 0
    assert 0 < seconds[-1].reserved < 0.8 * usable


def test_a_silent_retry_in_tiles_leaves_the_card_full_until_the_cache_is_emptied() -> None:
    """Sixteen empty latents do not fit for decoding in one piece: they are decoded in tiles, and no prompt fails."""
    graph = txt2img(1, batch_size=16)
    graph["8"]["inputs"]["samples"] = ["5", 0]
    seconds = watched(SimulatorSettings(gpu="rtx3060"), [graph, txt2img(2, steps=1)], [0.0, 200.0])
    most = SimulatedMachine(SimulatorSettings(gpu="rtx3060"), JumpingClock()).vram.total
    assert seconds[20].reserved == most > seconds[20].used
    assert seconds[190].reserved < most
