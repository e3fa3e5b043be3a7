"""What /system_stats says: a CUDA machine with the simulated GPU, and the mark by which a simulator is known."""

from __future__ import annotations

import sys
from typing import Any

from pytest_comfyload.simulator.machine import CONTEXT, Machine
from pytest_comfyload.simulator.settings import Settings

__all__ = ["system_stats"]


def system_stats(settings: Settings, machine: Machine, now: float) -> dict[str, Any]:
    """The whole answer at a virtual moment; `system.simulator` is a key that real servers lack."""
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


def _device(machine: Machine, index: int, used: int, reserved: int) -> dict[str, Any]:
    """One GPU; `used` and `reserved` are torch's bytes on it. Asking a device creates a context on it."""
    return {
        "name": f"cuda:{index} {machine.gpu.title} : cudaMallocAsync",
        "type": "cuda",
        "index": index,
        "vram_total": machine.gpu.usable,
        "vram_free": machine.gpu.usable - CONTEXT - used,
        "torch_vram_total": reserved,
        "torch_vram_free": reserved - used,
    }


def _flags(settings: Settings) -> list[str]:
    """The command line that makes a real server behave so; what is the default there is not on it."""
    previews = ["--preview-method", settings.preview_method] if settings.preview_method != "none" else []
    return previews + (settings.cache_mode.flags if settings.cache else [])
