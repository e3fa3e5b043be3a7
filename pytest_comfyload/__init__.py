"""Load tests for ComfyUI servers as pytest tests: scenarios by marker, SLOs as plain assertions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_comfyload.capacity.answer import Capacity
    from pytest_comfyload.plugin.marker import load_scenario, param
    from pytest_comfyload.result.ab_result import ABResult
    from pytest_comfyload.result.load_result import LoadResult
    from pytest_comfyload.result.outcome import Outcome
    from pytest_comfyload.run.gpu_sampling import GpuSampler
    from pytest_comfyload.scenario.distributions import exponential, lognormal, normal, uniform

__all__ = [
    "ABResult", "Capacity", "GpuSampler", "LoadResult", "Outcome", "exponential", "load_scenario", "lognormal",
    "normal", "param", "uniform",
]  # fmt: skip
__version__ = "0.1.0"

_HOMES = {
    "ABResult": "pytest_comfyload.result.ab_result",
    "Capacity": "pytest_comfyload.capacity.answer",
    "GpuSampler": "pytest_comfyload.run.gpu_sampling",
    "LoadResult": "pytest_comfyload.result.load_result",
    "Outcome": "pytest_comfyload.result.outcome",
    "exponential": "pytest_comfyload.scenario.distributions",
    "load_scenario": "pytest_comfyload.plugin.marker",
    "lognormal": "pytest_comfyload.scenario.distributions",
    "normal": "pytest_comfyload.scenario.distributions",
    "param": "pytest_comfyload.plugin.marker",
    "uniform": "pytest_comfyload.scenario.distributions",
}


def __getattr__(name: str) -> Any:
    # Lazy: every pytest run imports this package as a plugin, and most have no load test.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
