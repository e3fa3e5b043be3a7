from __future__ import annotations

import random
import statistics
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.simulator.machine import SimulatedMachine
from pytest_comfyload.simulator.node_cache import ExecutionOrder
from pytest_comfyload.simulator.settings import GPU_NAMES, SimulatorSettings
from pytest_comfyload.simulator.timing import GPUS, noise
from pytest_comfyload.simulator.virtual_clock import VirtualClock
from pytest_comfyload.simulator.vram import SD15, SDXL
from tests.simulator.graphs import txt2img

WARM = ("4", "5", "6", "7")


def seconds(gpu: str, cached: tuple[str, ...] = WARM) -> float:
    """Return the modelled time of an SDXL image's nodes, on a GPU that already has the weights loaded."""
    machine = SimulatedMachine(SimulatorSettings(gpu=gpu), VirtualClock(1.0))
    prompt = txt2img()
    made: dict[str, tuple[object, ...]] = {}
    total = 0.0
    for turn in range(2):  # the first turn loads the models
        order = ExecutionOrder(prompt, ["9"], set(cached if turn else ()).__contains__, {"9"}.__contains__)
        total = 0.0
        while (node := order.next()) is not None:
            work = machine.work(prompt[node]["class_type"], followed(prompt[node]["inputs"], made), node)
            made[node] = work.outputs
            total += machine.timed(work)[1]
            order.done(node)
    return total


def followed(inputs: Mapping[str, object], made: Mapping[str, tuple[object, ...]]) -> dict[str, object]:
    return {name: made[value[0]][value[1]] if isinstance(value, list) else value for name, value in inputs.items()}


@pytest.mark.parametrize(("gpu", "low", "high"), [("rtx3090", 2, 4), ("rtx4090", 4, 8), ("a100", 8, 15)])
def test_sdxl_images_per_minute_are_those_of_the_real_card(gpu: str, low: float, high: float) -> None:
    assert low < 60 / seconds(gpu) < high


def test_the_gpus_are_named_alike_and_sorted_by_speed() -> None:
    assert tuple(GPUS) == GPU_NAMES
    times = [seconds(gpu) for gpu in GPU_NAMES]
    assert times == sorted(times, reverse=True)


def test_loading_a_checkpoint_takes_longer_than_having_it() -> None:
    assert seconds("rtx4090", cached=()) > seconds("rtx4090") + 3


@given(st.integers(64, 2048), st.integers(64, 2048), st.integers(1, 8))
def test_more_pixels_never_take_less_time(width: int, height: int, batch: int) -> None:
    gpu = GPUS["rtx4090"]
    step = gpu.sampling_step(SDXL, width * height, batch)
    assert gpu.sampling_step(SDXL, (width + 8) * height, batch) > step
    assert gpu.sampling_step(SDXL, width * height, batch + 1) > step
    assert gpu.sampling_step(SDXL, width * height, batch, controlnets=1) > step
    assert gpu.sampling_step(SD15, width * height, batch) < step


def test_noise_is_small_centred_and_repeatable() -> None:
    factors = [noise(random.Random(seed)) for seed in range(2000)]
    assert abs(statistics.median(factors) - 1) < 0.005
    assert 0.02 < statistics.stdev(factors) < 0.03
    assert noise(random.Random(5)) == noise(random.Random(5))
