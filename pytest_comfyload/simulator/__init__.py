"""ComfyUI-compatible server that needs no GPU; aiohttp and Pillow are imported only when they are needed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pytest_comfyload.simulator.settings import GPU_NAMES, SimulatorSettings

if TYPE_CHECKING:
    from pytest_comfyload.simulator.server import create_app, serve

__all__ = ["GPU_NAMES", "SimulatorSettings", "create_app", "serve"]

# The last two are deprecated names, kept for one release. `launch` is named as text: this package must not import it.
_LAZY = {
    "create_app": ("pytest_comfyload.simulator.server", "create_app"),
    "serve": ("pytest_comfyload.simulator.server", "serve"),
    "Settings": ("pytest_comfyload.simulator.settings", "SimulatorSettings"),
    "SimulatorProcess": ("pytest_comfyload.launch.simulator", "SimulatorProcess"),
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module, attribute = _LAZY[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
