"""Load tests for ComfyUI servers as pytest tests: scenarios by marker, SLOs as plain assertions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_comfyload.capacity.capacity import Capacity
    from pytest_comfyload.plugin.marker import load_scenario, param
    from pytest_comfyload.result.load_result import LoadResult
    from pytest_comfyload.result.outcome import Outcome

__all__ = ["Capacity", "LoadResult", "Outcome", "load_scenario", "param"]
__version__ = "0.1.0"

_HOMES = {
    "Capacity": "pytest_comfyload.capacity.capacity",
    "LoadResult": "pytest_comfyload.result.load_result",
    "Outcome": "pytest_comfyload.result.outcome",
    "load_scenario": "pytest_comfyload.plugin.marker",
    "param": "pytest_comfyload.plugin.marker",
}


def __getattr__(name: str) -> Any:
    # Lazy: every pytest run imports this package as a plugin, and most have no load test.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
