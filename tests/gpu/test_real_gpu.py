"""GPU sampling on a real NVIDIA GPU, if this machine has one."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pytest_comfyload.gpu.nvml import NvmlSource
from pytest_comfyload.gpu.nvml_devices import NoGpus, NvmlDevice, nvml_devices
from pytest_comfyload.gpu.nvml_select import gpus_of_server
from pytest_comfyload.protocol.system_stats import parse_system_stats
from pytest_comfyload.result.telemetry import GpuSample
from tests.gpu.watching import SERVER

pytestmark = pytest.mark.gpu

# Prints what CUDA reports about its GPU in ComfyUI's form, then multiplies matrices until its stdin is closed.
WORK = """
import json, sys, threading
try:
    import torch
    assert torch.cuda.is_available()
except (ImportError, AssertionError):
    sys.exit(print("no torch with CUDA", flush=True))
free, total = torch.cuda.mem_get_info(0)
name = f"cuda:0 {torch.cuda.get_device_name(0)} : native"
a = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)
(a @ a).sum().item()
print(json.dumps({"name": name, "type": "cuda", "index": 0, "vram_total": total}), flush=True)
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
while not stop.is_set():
    for _ in range(50):
        b = a @ a
    torch.cuda.synchronize()
"""


@pytest.fixture(scope="module")
def devices() -> tuple[NvmlDevice, ...]:
    found = nvml_devices()
    if isinstance(found, NoGpus):
        pytest.skip(found.reason)
    return found


@contextmanager
def _working() -> Iterator[tuple[int, dict[str, Any]]]:
    """Start a process that keeps a GPU busy; yield its process id and its GPU."""
    with subprocess.Popen(
        [sys.executable, "-c", WORK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("{"):
            pytest.skip(line.strip() or "the matrix product did not start")
        yield process.pid, json.loads(line)


def _sampled(source: NvmlSource, seconds: float) -> list[GpuSample]:
    samples: list[GpuSample] = []

    async def watch() -> None:
        async with source.watching(samples.append, time.monotonic):
            await asyncio.sleep(seconds)

    asyncio.run(watch())
    return samples


def _listed() -> tuple[NvmlDevice, ...]:
    """List the GPUs again, now with the busy process."""
    found = nvml_devices()
    return () if isinstance(found, NoGpus) else found


def _smi(uuid: str, field: str) -> float:
    command = ["nvidia-smi", "-i", uuid, f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _mean_utilization(samples: list[GpuSample]) -> float:
    told = [(sample.utilization, sample.span) for sample in samples if sample.utilization is not None]
    return sum(value * span for value, span in told) / sum(span for _, span in told)


def test_what_a_gpu_tells_is_plausible(devices: tuple[NvmlDevice, ...]) -> None:
    source = NvmlSource(SERVER)
    samples = _sampled(source, 3)
    assert source.losses == ()
    for device in source.devices:
        own = [sample for sample in samples if sample.gpu == device.uuid]
        assert 20 <= len(own) <= 33
        last = own[-1]
        assert last.memory_used is None or 0 <= last.memory_used <= (last.memory_total or 0)
        assert last.temperature is None or 5 < last.temperature < 110
        assert last.power is None or 1 < last.power < 3000
        assert last.clock is None or 50 < last.clock < 5000
        assert all(0 <= sample.utilization <= 100 for sample in own if sample.utilization is not None)
        energies = [sample.energy for sample in own if sample.energy is not None]
        assert energies == sorted(energies)


def test_a_matrix_product_as_nvidia_smi_sees_it(devices: tuple[NvmlDevice, ...]) -> None:
    with _working() as (pid, shown):
        stats = parse_system_stats({"system": {}, "devices": [shown]})
        found = gpus_of_server(stats, _listed(), pid=pid)
        if isinstance(found, NoGpus):
            pytest.skip(found.reason)
        (device,) = found
        source = NvmlSource(SERVER, [device.uuid])
        samples = _sampled(source, 8)
        busy, memory = _smi(device.uuid, "utilization.gpu"), _smi(device.uuid, "memory.used") * 2**20
    steady = [sample for sample in samples if sample.time > samples[0].time + 2]
    assert _mean_utilization(steady) == pytest.approx(busy, abs=10)
    assert busy > 80
    assert steady[-1].memory_used == pytest.approx(memory, abs=64 * 2**20)
