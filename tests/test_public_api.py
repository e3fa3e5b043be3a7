"""The names that users import stay where they are."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator

import pytest

import pytest_comfyload
from pytest_comfyload.scenario.arguments import ARGUMENTS, DEFAULTS


def test_public_names() -> None:
    assert pytest_comfyload.__all__ == [
        "ABResult", "Capacity", "ComfyServers", "CustomMetric", "FindCapacity", "GpuReading", "GpuSampler",
        "LaunchedServers", "LoadResult", "Outcome", "RunAB", "RunLoad", "exponential", "load_scenario", "lognormal",
        "normal", "param", "uniform",
    ]  # fmt: skip
    assert [name for name in dir(pytest_comfyload) if not name.startswith("_")] == pytest_comfyload.__all__
    assert all(hasattr(pytest_comfyload, name) for name in pytest_comfyload.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pytest_comfyload.nothing  # noqa: B018


def test_load_scenario_has_the_arguments_and_defaults_of_a_scenario() -> None:
    parameters = inspect.signature(pytest_comfyload.load_scenario).parameters
    assert {name: parameter.default for name, parameter in parameters.items()} == dict(DEFAULTS)


# A measured quantity states its unit: seconds, percent, bytes, or what it counts.
_UNIT = re.compile(
    r"seconds?|percent|bytes|per (minute|second)|°C|prompts|pictures|arrivals|retries|outputs|number|pairs|unit",
    re.IGNORECASE,
)
_QUANTITIES = ("Metric", "Distribution", "Count", "ByClass", "ABFigure", "float", "float | None", "Goodput", "int")


def _public_members() -> Iterator[tuple[str, str, object]]:
    """Yield the name, docstring and return type of each public name, and of the members of public classes."""
    for name in pytest_comfyload.__all__:
        public = getattr(pytest_comfyload, name)
        yield name, getattr(public, "__doc__", "") or "", None
        for cls in public.__mro__ if inspect.isclass(public) else ():
            for member, value in vars(cls).items() if cls.__module__.startswith("pytest_comfyload.") else ():
                getter = (
                    getattr(value, "fget", None) or getattr(value, "func", None) or getattr(value, "__func__", value)
                )
                if not member.startswith("_") and inspect.isfunction(getter):
                    yield f"{name}.{member}", getter.__doc__ or "", getter.__annotations__.get("return")


def test_every_public_name_is_described_and_what_is_measured_says_its_unit() -> None:
    members = list(_public_members())
    assert len(members) > 90
    assert [name for name, described, _ in members if not described] == []
    quantities = [(name, described) for name, described, returned in members if returned in _QUANTITIES]
    assert len(quantities) > 40
    assert [name for name, described in quantities if not _UNIT.search(described)] == []


def test_every_module_lists_its_public_names() -> None:
    """Every module has an `__all__`, and each name in it exists."""
    for module_info in pkgutil.walk_packages(pytest_comfyload.__path__, "pytest_comfyload."):
        if module_info.ispkg or module_info.name.endswith("__main__"):
            continue
        module = importlib.import_module(module_info.name)
        assert module.__all__, module_info.name
        assert [name for name in module.__all__ if not hasattr(module, name)] == [], module_info.name


def test_load_results_metrics_are_typed_numbers() -> None:
    """What a suite may use of `load`; removing any of these names breaks users."""
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
