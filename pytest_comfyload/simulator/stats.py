"""What /system_stats says: a CUDA machine with the simulated GPU, and the mark by which a simulator is known."""

from __future__ import annotations

import sys
from typing import Any

from pytest_comfyload.simulator.machine import CONTEXT, Machine
from pytest_comfyload.simulator.settings import Settings

__all__ = ["COMFYUI_VERSION", "system_stats"]

COMFYUI_VERSION = "0.3.75"
_RAM_TOTAL = 64 * 1024**3
_RAM_FREE = 48 * 1024**3


def system_stats(settings: Settings, machine: Machine, now: float) -> dict[str, Any]:
    """The whole answer at a virtual moment; `system.simulator` is a key that real servers lack."""
    return {
        "system": {
            "os": "posix",
            "ram_total": _RAM_TOTAL,
            "ram_free": _RAM_FREE,
            "comfyui_version": COMFYUI_VERSION,
            "required_frontend_version": "1.32.9",
            "installed_templates_version": None,
            "required_templates_version": "0.7.25",
            "python_version": sys.version,
            "pytorch_version": "2.9.1+cu128",
            "embedded_python": False,
            "argv": ["main.py"] + (["--preview-method", settings.preview_method] if _previews(settings) else []),
            "simulator": {"time_scale": settings.time_scale, "gpu": settings.gpu},
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


def _previews(settings: Settings) -> bool:
    return settings.preview_method != "none"
