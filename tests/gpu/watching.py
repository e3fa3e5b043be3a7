"""Watches of GPUs that run in the stand-in's process: started by the tests, which check the results."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_comfyload.gpu.nvml import NvmlSource
from pytest_comfyload.gpu.nvml_devices import GpuProcess
from pytest_comfyload.result.telemetry import GpuSample
from tests.gpu.nvml_stub import opens

SERVER = "http://127.0.0.1:8188"
CARD_0 = "GPU-00000000-aaaa-bbbb-cccc-dddddddddddd"
CARD_1 = "GPU-00010000-aaaa-bbbb-cccc-dddddddddddd"
SLICE_0 = "MIG-00000000-aaaa-bbbb-cccc-dddddddddddd"
SLICE_1 = "MIG-00000001-aaaa-bbbb-cccc-dddddddddddd"


@dataclass(frozen=True)
class Watched:
    """The result of a watch.

    `stop` is the time in seconds that stopping took; `open` are the open counts of the library and its event sets
    during the watch.
    """

    samples: tuple[GpuSample, ...]
    losses: tuple[str, ...]
    processes: tuple[GpuProcess, ...]
    company: tuple[str, ...]
    stop: float
    open: tuple[int, int]

    def of(self, gpu: str) -> list[GpuSample]:
        return [sample for sample in self.samples if sample.gpu == gpu]


def watched(readings: int = 1, gpus: Sequence[str] | None = ("0",), sources: int = 1) -> Watched:
    """Watch GPUs with several sources at once until a GPU was read `readings` times, or none can be read any more."""
    return asyncio.run(_watched([NvmlSource(SERVER, gpus) for _ in range(sources)], readings))


async def _watched(sources: Sequence[NvmlSource], readings: int) -> Watched:
    samples: list[GpuSample] = []
    async with asyncio.timeout(30):
        watches = await asyncio.gather(*(_watch(source, samples, readings) for source in sources))
    times, open_ = zip(*watches, strict=True)
    losses = tuple(loss for source in sources for loss in source.losses)
    return Watched(tuple(samples), losses, sources[0].processes, sources[0].company, max(times), max(open_))


async def _watch(source: NvmlSource, samples: list[GpuSample], readings: int) -> tuple[float, tuple[int, int]]:
    async with source.watching(samples.append, time.monotonic):
        open_ = opens()
        while _watching() and not _enough(samples, readings):
            await asyncio.sleep(0.005)
        begin = time.monotonic()
    return time.monotonic() - begin, open_


def _watching() -> bool:
    return any(thread.name == "comfyload-nvml" for thread in threading.enumerate())


def _enough(samples: Sequence[GpuSample], readings: int) -> bool:
    gpus = [sample.gpu for sample in samples]
    return any(gpus.count(gpu) >= readings for gpu in set(gpus))
