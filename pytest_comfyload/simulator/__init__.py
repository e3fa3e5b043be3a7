"""A ComfyUI-compatible server without a GPU; importing this loads neither aiohttp nor pillow until they are needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_comfyload.simulator.process import SimulatorProcess
from pytest_comfyload.simulator.settings import GPU_NAMES, Settings

if TYPE_CHECKING:
    from pytest_comfyload.simulator.server import create_app, serve

__all__ = ["GPU_NAMES", "Settings", "SimulatorProcess", "create_app", "serve"]

_LAZY = ("create_app", "serve")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from pytest_comfyload.simulator import server

        return getattr(server, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
