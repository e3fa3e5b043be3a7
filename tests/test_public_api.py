"""The names that users import stay where they are."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest

import pytest_comfyload
from pytest_comfyload.scenario.arguments import ARGUMENTS, DEFAULTS


def test_public_names() -> None:
    assert pytest_comfyload.__all__ == [
        "ABResult", "Capacity", "GpuSampler", "LoadResult", "Outcome", "exponential", "load_scenario", "lognormal",
        "normal", "param", "uniform",
    ]  # fmt: skip
    assert all(hasattr(pytest_comfyload, name) for name in pytest_comfyload.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pytest_comfyload.nothing  # noqa: B018


def test_load_scenario_has_the_arguments_and_defaults_of_a_scenario() -> None:
    parameters = inspect.signature(pytest_comfyload.load_scenario).parameters
    assert {name: parameter.default for name, parameter in parameters.items()} == dict(DEFAULTS)


def test_every_module_lists_its_public_names() -> None:
    """`__all__` is complete: it exists, and each name in it is there."""
    for module_info in pkgutil.walk_packages(pytest_comfyload.__path__, "pytest_comfyload."):
        if module_info.ispkg or module_info.name.endswith("__main__"):
            continue
        module = importlib.import_module(module_info.name)
        assert module.__all__, module_info.name
        assert [name for name in module.__all__ if not hasattr(module, name)] == [], module_info.name


def test_load_results_metrics_are_typed_numbers() -> None:
    """What a suite may ask of `load`; a name that goes is a break for its users."""
    expected = {
        "generation_time", "queue_time", "total_time", "submit_time", "delivery_time", "fetch_time", "send_lag",
        "node_time", "steps_per_second", "success_rate", "throughput", "prompt_throughput", "oom_errors", "timeouts",
        "cached", "errors", "outcomes", "scenario", "seed", "state", "simulated", "window", "to_dict",
    }  # fmt: skip
    available = set(dir(pytest_comfyload.LoadResult)) | {"outcomes"}
    assert expected <= available


def test_the_help_of_load_scenario_lists_each_argument_with_meaning_and_default() -> None:
    lines = (inspect.getdoc(pytest_comfyload.load_scenario) or "").splitlines()
    assert [line.split(":")[0].strip() for line in lines if line.startswith("    ") and line[4] != " "] == [*ARGUMENTS]
    whole = " ".join(" ".join(lines).split())
    assert [each.name for each in ARGUMENTS.values() if f"{each.name}: {each.help}" not in whole] == []
    assert "Default: '300s'." in whole


def test_old_names_of_the_simulator_work_for_one_release() -> None:
    from pytest_comfyload import simulator
    from pytest_comfyload.launch.simulator import SimulatorProcess

    assert simulator.SimulatorProcess is SimulatorProcess
    assert simulator.Settings is simulator.SimulatorSettings
