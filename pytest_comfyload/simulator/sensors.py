"""The sensors of the simulated GPU: Prometheus text in the format of dcgm-exporter, and /system_stats."""

from __future__ import annotations

import math
import sys
import uuid
from typing import Any

from pytest_comfyload.simulator.machine import CONTEXT, SimulatedMachine
from pytest_comfyload.simulator.settings import SimulatorSettings

__all__ = ["CONTENT_TYPE", "gpu_metrics", "gpu_uuid", "system_stats"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_MIB = 1024**2
_IDLE = 0x1
"""Bit of the clock event reasons: the GPU is idle."""

_FAMILIES = {
    "DCGM_FI_DEV_SM_CLOCK": ("gauge", "SM clock frequency (in MHz)."),
    "DCGM_FI_DEV_GPU_TEMP": ("gauge", "GPU temperature (in C)."),
    "DCGM_FI_DEV_POWER_USAGE": ("gauge", "Power draw (in W)."),
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": ("counter", "Total energy consumption since boot (in mJ)."),
    "DCGM_FI_DEV_GPU_UTIL": ("gauge", "GPU utilization (in %)."),
    "DCGM_FI_DEV_XID_ERRORS": ("gauge", "Value of the last XID error encountered."),
    "DCGM_FI_DEV_CLOCKS_EVENT_REASONS": ("gauge", "Current clock event reasons (bitmask)."),
    "DCGM_FI_DEV_FB_FREE": ("gauge", "Framebuffer memory free (in MiB)."),
    "DCGM_FI_DEV_FB_USED": ("gauge", "Framebuffer memory used (in MiB)."),
    "DCGM_FI_DEV_FB_RESERVED": ("gauge", "Framebuffer memory reserved (in MiB)."),
}


def gpu_uuid(settings: SimulatorSettings, port: int) -> str:
    """Return the GPU's UUID, which stays the same for the same port, GPU model and seed."""
    return f"GPU-{uuid.uuid5(uuid.NAMESPACE_URL, f'comfyload:{port}/{settings.gpu}/{settings.seed}')}"


def gpu_metrics(machine: SimulatedMachine, gpu: str, now: float) -> str:
    """Return the response to a scrape at a virtual moment; `gpu` is the UUID. Times, and hence watts, are virtual."""
    values = _power(machine, now) | _memory(machine, now)
    labels = ",".join(f'{name}="{value}"' for name, value in _labels(machine, gpu).items())
    return "".join(
        f"# HELP {name} {meaning}\n# TYPE {name} {kind}\n{name}{{{labels}}} {values[name]}\n"
        for name, (kind, meaning) in _FAMILIES.items()
    )


def _labels(machine: SimulatedMachine, gpu: str) -> dict[str, str]:
    return {
        "gpu": "0",
        "UUID": gpu,
        "pci_bus_id": "00000000:01:00.0",
        "device": "nvidia0",
        "modelName": machine.gpu.title,
        "Hostname": "simulator",
        # A real exporter reports a version such as `550.54.15`; a simulation must not pass for a run under that driver.
        "DCGM_FI_DRIVER_VERSION": "simulated",
    }


def _power(machine: SimulatedMachine, now: float) -> dict[str, str]:
    """Return what depends on how busy the GPU is, as whole numbers where the driver reports only those."""
    reading = machine.activity.read(now)
    board, condition = machine.gpu.board, reading.condition
    idle = reading.utilization == 0
    return {
        "DCGM_FI_DEV_SM_CLOCK": f"{board.idle_clock if idle else board.clock}",
        "DCGM_FI_DEV_GPU_TEMP": f"{condition.temperature:.0f}",
        "DCGM_FI_DEV_POWER_USAGE": f"{condition.power:f}",
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": f"{math.floor(condition.energy * 1000)}",
        "DCGM_FI_DEV_GPU_UTIL": f"{reading.utilization:.0f}",
        "DCGM_FI_DEV_XID_ERRORS": "0",
        "DCGM_FI_DEV_CLOCKS_EVENT_REASONS": f"{_IDLE if idle else board.throttle}",
    }


def _memory(machine: SimulatedMachine, now: float) -> dict[str, str]:
    """Return the card's memory in three parts; unlike /system_stats, the driver counts torch's cache as used."""
    reserved = machine.gpu.board.reserved // _MIB
    used = math.ceil((CONTEXT + machine.vram.reserved(now)) / _MIB)
    return {
        "DCGM_FI_DEV_FB_FREE": f"{machine.gpu.vram // _MIB - reserved - used}",
        "DCGM_FI_DEV_FB_USED": f"{used}",
        "DCGM_FI_DEV_FB_RESERVED": f"{reserved}",
    }


def system_stats(settings: SimulatorSettings, machine: SimulatedMachine, now: float) -> dict[str, Any]:
    """Return the response of /system_stats at a virtual moment; real servers lack the key `system.simulator`."""
    return {
        "system": {
            **settings.version.system,
            "ram_total": machine.ram,
            "ram_free": machine.ram_free,
            "comfyui_version": settings.comfyui_version,
            "python_version": sys.version,
            "pytorch_version": "2.9.1+cu128",
            "embedded_python": False,
            "argv": ["main.py", *_flags(settings)],
            "simulator": {
                "time_scale": settings.time_scale,
                "gpu": settings.gpu,
                "guessed_times": machine.guessed_times,
            },
        },
        "devices": [
            _device(machine, 0, machine.vram.used, machine.vram.reserved(now)),
            *(_device(machine, index, 0, 0) for index in range(1, settings.devices)),
        ],
    }


def _device(machine: SimulatedMachine, index: int, used: int, reserved: int) -> dict[str, Any]:
    """Describe one GPU; `used` and `reserved` are torch's bytes on it. Querying a device creates a context on it."""
    return {
        "name": f"cuda:{index} {machine.gpu.title} : cudaMallocAsync",
        "type": "cuda",
        "index": index,
        "vram_total": machine.gpu.usable,
        "vram_free": machine.gpu.usable - CONTEXT - used,
        "torch_vram_total": reserved,
        "torch_vram_free": reserved - used,
    }


def _flags(settings: SimulatorSettings) -> list[str]:
    """Return the command-line flags that make a real server behave in the same way, without its defaults."""
    previews = ["--preview-method", settings.preview_method] if settings.preview_method != "none" else []
    return previews + (settings.cache_mode.flags if settings.cache else [])
