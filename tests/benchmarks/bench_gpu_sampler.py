"""What reading GPUs ten times a second costs the generator; NVIDIA's library itself is a stand-in here."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from pytest_comfyload.gpu.nvml import NvmlSource
from tests.gpu.nvml_stub import build, stub_process

SECONDS = 12.0


def _share_of_a_core() -> tuple[float, int]:
    """Return the CPU seconds per second of the process, including the stand-in's, and the number of samples."""
    source = NvmlSource("http://127.0.0.1:8188")
    samples: list[object] = []

    async def watch() -> float:
        async with source.watching(samples.append, time.monotonic):
            begin, cpu = time.monotonic(), time.process_time()
            await asyncio.sleep(SECONDS)
            return (time.process_time() - cpu) / (time.monotonic() - begin)

    return asyncio.run(watch()), len(samples)


@pytest.mark.parametrize("cards", [1, 8])
def test_the_sampler_costs_less_than_a_hundredth_of_a_core(tmp_path: Path, cards: int) -> None:
    build(tmp_path)
    with stub_process(tmp_path) as stub:
        stub.script(f"nvmlDeviceGetCount_v2 {cards}", "nvmlDeviceGetComputeRunningProcesses_v3 1:1000,2:2000")
        share, samples = stub(_share_of_a_core)
    print(f"\n{cards} cards at 10 Hz: {100 * share:.2f} % of a core, {1e6 * share * SECONDS / samples:.0f} µs a sample")
    assert samples >= 0.8 * 10 * SECONDS * cards
    assert share < 0.01
