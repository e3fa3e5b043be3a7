"""The sampling thread: its deadlines, the errors it survives, and that it leaves the library as it found it."""

from __future__ import annotations

import asyncio
import math
import statistics
import threading
import time
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.errors import UsageError
from pytest_comfyload.gpu.nvml import NvmlSource
from pytest_comfyload.gpu.nvml_devices import GpuProcess
from pytest_comfyload.gpu.nvml_thread import PERIOD, next_deadline
from pytest_comfyload.result.telemetry import GpuSample
from tests.gpu.nvml_stub import StubProcess, opens
from tests.gpu.watching import CARD_0, CARD_1, SERVER, watched

ALL = None


@given(st.floats(0, 1e6), st.floats(-1, 1e3))
def test_the_next_deadline_is_ahead_and_on_the_grid(due: float, late: float) -> None:
    following = next_deadline(due, due + late)
    turns = (following - due) / PERIOD
    assert math.isclose(turns, round(turns), abs_tol=1e-4)
    assert round(turns) >= 1
    assert following - (due + max(late, 0)) <= PERIOD + 1e-6
    assert following >= due + late - 1e-6


def _gaps(samples: Sequence[GpuSample]) -> list[float]:
    return [after.time - before.time for before, after in pairwise(samples)]


def test_readings_that_take_time_keep_to_their_deadlines(stub: StubProcess) -> None:
    stub.script("nvmlDeviceGetPowerUsage ~40")
    gaps = _gaps(stub(watched, 16).samples[:16])
    assert statistics.median(gaps) == pytest.approx(PERIOD, abs=0.2 * PERIOD)


def test_a_reading_that_hangs_makes_no_bunch_afterwards(stub: StubProcess) -> None:
    stub.script("nvmlDeviceGetPowerUsage = ~750 =")
    gaps = _gaps(stub(watched, 8).samples[:8])
    assert max(gaps) > 0.7
    assert sum(gap < PERIOD / 5 for gap in gaps) <= 1


def test_a_lost_gpu_is_told_once_and_the_others_go_on(stub: StubProcess) -> None:
    stub.script("nvmlDeviceGetClockInfo@0 = = !15")
    seen = stub(watched, 6, ALL)
    assert len(seen.of(CARD_0)) == 2
    assert len(seen.of(CARD_1)) >= 6
    (loss,) = seen.losses
    assert loss.startswith("GPU-00000000 was lost ")
    assert loss.endswith(": GPU is lost")


def test_a_gpu_that_needs_a_reset_is_lost(stub: StubProcess) -> None:
    stub.script("nvmlDeviceGetSamples@0 = = !16")
    assert stub(watched, 5).losses[0].endswith(": GPU requires restart")


def test_a_gpu_that_knows_nothing_any_more_is_lost(stub: StubProcess) -> None:
    calls = ["MemoryInfo_v2", "MemoryInfo", "PowerUsage", "TotalEnergyConsumption", "ClockInfo", "Samples"]
    calls += ["TemperatureV", "Temperature", "CurrentClocksEventReasons", "CurrentClocksThrottleReasons"]
    stub.script(*(f"nvmlDeviceGet{call}@1 = = = !999" for call in calls))
    seen = stub(watched, 6, ALL)
    assert 2 <= len(seen.of(CARD_1)) <= 3
    assert seen.losses[0].endswith(": Unknown Error")


def test_when_all_gpus_are_lost_the_watch_only_waits_for_its_end(stub: StubProcess) -> None:
    stub.script("nvmlDeviceGetPowerUsage@0 = !15", "nvmlDeviceGetPowerUsage@1 = !15")
    seen = stub(watched, 100, ALL)
    assert len(seen.losses) == 2
    assert len(seen.samples) == 2


def test_a_gpu_that_is_lost_before_the_watch_is_refused(stub: StubProcess) -> None:
    # The listing gets the handle by its number, the watch by its UUID.
    stub.script("handle@0 !15")
    with pytest.raises(UsageError, match=r"GPU-00000000 \(NVIDIA Stub 4090\) no longer answers: GPU is lost"):
        stub(watched)


def test_xid_events(stub: StubProcess) -> None:
    stub.script("nvmlEventSetWait_v2 1:79 0:13 0:13 0:31337 !10")
    assert stub(watched, 2, ALL).losses == (
        "GPU-00010000 reported XID 79 (the GPU fell off the bus)",
        "GPU-00000000 reported XID 13 (a kernel's error on the GPU), 2 times",
        "GPU-00000000 reported XID 31337",
    )


def test_events_that_never_end(stub: StubProcess) -> None:
    stub.script("nvmlEventSetWait_v2 0:43")
    assert "XID 43" in stub(watched, 2).losses[0]


@pytest.mark.parametrize("function", ["nvmlEventSetCreate", "nvmlDeviceRegisterEvents", "nvmlEventSetWait_v2"])
def test_a_system_without_events(stub: StubProcess, function: str) -> None:
    stub.script(f"{function} !3")
    seen = stub(watched, 2)
    assert seen.losses == ()
    assert seen.samples[0].power == 250.5


def test_memory_errors_are_counted_from_the_beginning_of_the_watch(stub: StubProcess) -> None:
    # Two counters per card, alternating: before the watch, at its first reading, and at its last.
    stub.script("nvmlDeviceGetTotalEccErrors@0 7/1 7/1 7/1 7/1 10/2", "nvmlDeviceGetTotalEccErrors@1 5/5")
    assert stub(watched, 2, ALL).losses == (
        "GPU-00000000: 3 memory errors that ECC corrected",
        "GPU-00000000: 1 memory error that ECC could not correct",
    )


def test_cards_without_ecc(stub: StubProcess) -> None:
    stub.script("nvmlDeviceGetTotalEccErrors !3")
    assert stub(watched, 2).losses == ()


def test_processes_with_the_most_memory_they_had(stub: StubProcess) -> None:
    # Queried by the listing, at the first reading, and at the last.
    stub.script("nvmlDeviceGetComputeRunningProcesses_v3@0 1:1 10:500,20:-1 10:300,30:900")
    seen = stub(watched, 2)
    assert set(seen.processes) == {
        GpuProcess(CARD_0, 10, 500),
        GpuProcess(CARD_0, 20, None),
        GpuProcess(CARD_0, 30, 900),
    }
    (company,) = seen.company
    assert company.startswith("other processes used GPU-00000000 too: process 10 with ")
    assert company.endswith("MiB, 20 with memory that the driver hides")


def test_a_server_that_has_its_gpu_to_itself_has_no_company(stub: StubProcess) -> None:
    stub.script("nvmlDeviceGetComputeRunningProcesses_v3@0 30:900")
    assert stub(watched, 2).company == ()


@pytest.mark.parametrize("cards", [2, 8])
def test_contexts_without_work_are_no_company(stub: StubProcess, cards: int) -> None:
    """Two servers on two cards: each has a context on both cards, but works on only one."""
    stub.script(
        f"nvmlDeviceGetCount_v2 {cards}",
        "nvmlDeviceGetComputeRunningProcesses_v3 10:500000000,20:500000000",
        "nvmlDeviceGetComputeRunningProcesses_v3@0 10:9000000000,20:500000000",
        "nvmlDeviceGetComputeRunningProcesses_v3@1 10:500000000,20:9000000000",
        "nvmlDeviceGetProcessUtilization 0:0",
        "nvmlDeviceGetProcessUtilization@0 0:0 10:95,20:0",
        "nvmlDeviceGetProcessUtilization@1 20:95",
    )
    seen = stub(watched, 2, ["0"])
    assert {(each.gpu, each.pid, each.worked) for each in seen.processes} == {(CARD_0, 10, True), (CARD_0, 20, False)}
    assert seen.company == ()


def test_a_process_that_worked_once_is_company_for_good(stub: StubProcess) -> None:
    stub.script(
        "nvmlDeviceGetComputeRunningProcesses_v3@0 10:9000000000,20:500000000",
        "nvmlDeviceGetProcessUtilization@0 10:60 10:60,20:30 10:90,20:0",
    )
    (company,) = stub(watched, 12).company
    assert company.startswith("other processes used GPU-00000000 too: process 20 with ")


def test_several_sources_at_once_and_one_after_another(stub: StubProcess) -> None:
    seen = stub(watched, 30, ALL, sources=3)
    assert seen.open == (3, 3)
    assert seen.losses == ()
    assert stub(opens) == (0, 0)
    assert stub(watched, 1).losses == ()


def test_it_ends_within_its_period(stub: StubProcess) -> None:
    assert stub(watched, 3, ALL).stop < 10 * PERIOD


def test_a_driver_that_hangs_does_not_hold_up_the_end(stub: StubProcess) -> None:
    stub.script("nvmlDeviceGetPowerUsage = ~4000 =")
    seen = stub(_hung)
    assert seen == ("NVML did not answer for 2 s in the end",)
    stub(_join)


def _join() -> None:
    for thread in threading.enumerate():
        if thread.name == "comfyload-nvml":
            thread.join(30)


def _hung() -> tuple[str, ...]:
    source = NvmlSource(SERVER, ["0"])
    samples: list[GpuSample] = []

    async def watch() -> None:
        async with source.watching(samples.append, time.monotonic):
            while not samples:
                await asyncio.sleep(0.01)
            await asyncio.sleep(3 * PERIOD)

    asyncio.run(watch())
    return source.losses


def test_a_keeper_that_fails_ends_the_watch_and_not_the_load(stub: StubProcess) -> None:
    assert stub(_with_a_bad_keeper) == "disk full"


def _with_a_bad_keeper() -> str:
    source = NvmlSource(SERVER)

    def keep(sample: GpuSample) -> None:
        raise OSError("disk full")

    async def watch() -> None:
        async with source.watching(keep, time.monotonic):
            while not source.losses:
                await asyncio.sleep(0.01)

    asyncio.run(watch())
    (loss,) = source.losses
    return loss.rpartition(": ")[2]


def test_a_watch_that_is_cancelled_on_its_way_in(stub: StubProcess) -> None:
    stub.script("handle ~300")
    assert stub(_cancelled) == "cancelled"


def _cancelled() -> str:
    source = NvmlSource(SERVER, ["0"])

    async def watch() -> str:
        try:
            async with asyncio.timeout(0.05), source.watching(lambda sample: None, time.monotonic):
                return "watched"
        except TimeoutError:
            return "cancelled"

    return asyncio.run(watch())
