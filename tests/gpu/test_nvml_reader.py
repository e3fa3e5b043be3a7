"""One reading of a GPU becomes one sample: units, missing values, MIG slices."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_comfyload.result.telemetry import GpuSample
from tests.gpu.nvml_stub import StubProcess
from tests.gpu.watching import CARD_0, SERVER, SLICE_0, SLICE_1, watched


def _sample(stub: StubProcess, gpu: str = "0") -> GpuSample:
    return stub(watched, 1, (gpu,)).samples[0]


def test_units(stub: StubProcess) -> None:
    stub.script(
        "nvmlDeviceGetMemoryInfo_v2 85899345920/600000000/1073741824",
        "nvmlDeviceGetTemperatureV 71",
        "nvmlDeviceGetTemperature 71",
        "nvmlDeviceGetPowerUsage 698123",
        "nvmlDeviceGetTotalEnergyConsumption 9007199254740993",
        "nvmlDeviceGetClockInfo 1980",
        "nvmlDeviceGetCurrentClocksEventReasons 0x25",
    )
    sample = _sample(stub)
    assert (sample.server, sample.gpu) == (SERVER, CARD_0)
    assert (sample.memory_used, sample.memory_total) == (1_073_741_824, 85_899_345_920)
    assert (sample.temperature, sample.power, sample.clock) == (71, 698.123, 1980)
    assert sample.energy == pytest.approx(9_007_199_254_740.993)
    assert sample.throttle == ("sw_power_cap", "sw_thermal")


def test_an_idle_gpu_is_not_throttled(stub: StubProcess) -> None:
    stub.script("nvmlDeviceGetCurrentClocksEventReasons 0x1")
    assert _sample(stub).throttle == ()


@pytest.mark.parametrize("error", ["!2", "!3", "!4", "!13", "!999"])
@pytest.mark.parametrize(
    ("functions", "field"),
    [
        (["nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMemoryInfo"], "memory_used"),
        (["nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"], "temperature"),
        (["nvmlDeviceGetPowerUsage"], "power"),
        (["nvmlDeviceGetTotalEnergyConsumption"], "energy"),
        (["nvmlDeviceGetClockInfo"], "clock"),
        (["nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"], "throttle"),
    ],
)
def test_what_a_card_does_not_tell_is_absent(stub: StubProcess, functions: list[str], field: str, error: str) -> None:
    stub.script(*(f"{function} {error}" for function in functions))
    sample = _sample(stub)
    fields = ["memory_used", "temperature", "power", "energy", "clock", "throttle"]
    assert [name for name in fields if getattr(sample, name) is None] == [field]


def test_an_older_driver_is_asked_in_its_own_way(stub_without: Callable[..., StubProcess]) -> None:
    old = stub_without(
        "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetTemperatureV", "nvmlDeviceGetCurrentClocksEventReasons"
    )
    old.script(
        "nvmlDeviceGetMemoryInfo 24000000000/500000000/8000000000",
        "nvmlDeviceGetTemperature 55",
        "nvmlDeviceGetCurrentClocksThrottleReasons 0x8",
    )
    sample = _sample(old)
    assert sample.memory_used == 8_500_000_000  # old drivers do not report reserved memory separately
    assert (sample.temperature, sample.throttle) == (55, ("hw_slowdown",))


def test_a_call_that_fails_once_is_not_replaced_by_another_that_means_something_else(stub: StubProcess) -> None:
    stub.script("nvmlDeviceGetMemoryInfo_v2 = !999 =")
    samples = stub(watched, 3).samples
    assert [sample.memory_used for sample in samples[:3]] == [8e9, None, 8e9]


def test_a_slice_has_its_own_memory_and_its_cards_clock(stub: StubProcess) -> None:
    stub.script(
        "nvmlDeviceGetMaxMigDeviceCount@0 2",
        "nvmlDeviceGetMemoryInfo_v2@0.1 5000000000/0/1000000000",
        "nvmlDeviceGetCurrentClocksEventReasons@0 0x40",
        "nvmlDeviceGetComputeRunningProcesses_v3@0.1 99:1000",
    )
    seen = stub(watched, 1, (SLICE_0, SLICE_1))
    sample = seen.of(SLICE_1)[0]
    assert (sample.memory_used, sample.memory_total) == (1e9, 5e9)
    assert (sample.temperature, sample.clock, sample.throttle) == (61, 2520, ("hw_thermal",))
    assert (sample.utilization, sample.power, sample.energy) == (None, None, None)
    assert [(process.gpu, process.pid) for process in seen.processes] == [(SLICE_1, 99)]
    assert seen.losses == ()


def test_a_card_that_is_cut_up_has_no_utilization_of_its_own(stub: StubProcess) -> None:
    stub.script("nvmlDeviceGetMaxMigDeviceCount@0 2", "nvmlDeviceGetSamples !3", "nvmlDeviceGetUtilizationRates !3")
    sample = _sample(stub)
    assert sample.gpu == CARD_0
    assert sample.utilization is None
    assert sample.power == 250.5
