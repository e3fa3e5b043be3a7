"""Load tests for ComfyUI servers as pytest tests: scenarios by marker, SLOs as plain assertions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_comfyload.capacity.answer import Capacity
    from pytest_comfyload.gpu.spec import GpuReading
    from pytest_comfyload.launch.fleet import LaunchedServers
    from pytest_comfyload.plugin.fixture_types import FindCapacity, RunAB, RunLoad
    from pytest_comfyload.plugin.marker import load_scenario, param
    from pytest_comfyload.result.ab_result import ABResult
    from pytest_comfyload.result.extensions import CustomMetric
    from pytest_comfyload.result.load_result import LoadResult
    from pytest_comfyload.result.outcome import Outcome
    from pytest_comfyload.run.gpu_sampling import GpuSampler
    from pytest_comfyload.run.target import ComfyServers
    from pytest_comfyload.scenario.distributions import exponential, lognormal, normal, uniform

    __version__: str

__all__ = [
    "ABResult", "Capacity", "ComfyServers", "CustomMetric", "FindCapacity", "GpuReading", "GpuSampler",
    "LaunchedServers", "LoadResult", "Outcome", "RunAB", "RunLoad", "exponential", "load_scenario", "lognormal",
    "normal", "param", "uniform",
]  # fmt: skip

_HOMES = {
    "ABResult": "pytest_comfyload.result.ab_result",
    "Capacity": "pytest_comfyload.capacity.answer",
    "ComfyServers": "pytest_comfyload.run.target",
    "CustomMetric": "pytest_comfyload.result.extensions",
    "FindCapacity": "pytest_comfyload.plugin.fixture_types",
    "GpuReading": "pytest_comfyload.gpu.spec",
    "GpuSampler": "pytest_comfyload.run.gpu_sampling",
    "LaunchedServers": "pytest_comfyload.launch.fleet",
    "LoadResult": "pytest_comfyload.result.load_result",
    "Outcome": "pytest_comfyload.result.outcome",
    "RunAB": "pytest_comfyload.plugin.fixture_types",
    "RunLoad": "pytest_comfyload.plugin.fixture_types",
    "exponential": "pytest_comfyload.scenario.distributions",
    "load_scenario": "pytest_comfyload.plugin.marker",
    "lognormal": "pytest_comfyload.scenario.distributions",
    "normal": "pytest_comfyload.scenario.distributions",
    "param": "pytest_comfyload.plugin.marker",
    "uniform": "pytest_comfyload.scenario.distributions",
}


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])


def __getattr__(name: str) -> Any:
    # Lazy: every pytest run imports this package as a plugin, and most have no load test.
    if name == "__version__":
        from importlib.metadata import version

        return version("pytest-comfyload")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
