"""A ComfyUI-compatible server without a GPU; importing this loads neither aiohttp nor pillow until they are needed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pytest_comfyload.simulator.settings import GPU_NAMES, Settings

if TYPE_CHECKING:
    from pytest_comfyload.simulator.server import create_app, serve

__all__ = ["GPU_NAMES", "Settings", "create_app", "serve"]

# `SimulatorProcess` moved to `launch`, which this room does not know; the old name works for one release.
_LAZY = {
    "create_app": "pytest_comfyload.simulator.server",
    "serve": "pytest_comfyload.simulator.server",
    "SimulatorProcess": "pytest_comfyload.launch.simulator",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
