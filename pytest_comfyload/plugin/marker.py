"""The mark: `load_scenario` with its typed signature, and its conversion to a Scenario or a one-line error."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal, ParamSpec, cast

import pytest

from pytest_comfyload.errors import ComfyloadError, UsageError
from pytest_comfyload.metrics.registry import GATE
from pytest_comfyload.plugin.load_tests import MARK, own_marks
from pytest_comfyload.plugin.repetition import parameters_of, repetition_of, test_id
from pytest_comfyload.scenario.arguments import DEFAULTS, Param, described
from pytest_comfyload.scenario.distributions import DistributionSpec
from pytest_comfyload.scenario.scenario import Scenario

__all__ = ["MarkedScenario", "check_marks", "load_scenario", "marked_scenario", "param"]

Seconds = float | str
P = ParamSpec("P")


def _judged_at_collection(typed: Callable[P, pytest.MarkDecorator]) -> Callable[P, pytest.MarkDecorator]:
    """Accept arguments outside the signature, too: collection rejects them with the name of the test."""

    @functools.wraps(typed)
    def marking(*args: P.args, **kwargs: P.kwargs) -> pytest.MarkDecorator:
        try:
            return typed(*args, **kwargs)
        except TypeError:
            return pytest.mark.load_scenario.with_args(*args, **kwargs)

    return marking


@_judged_at_collection
def load_scenario(
    workflow: str | PathLike[str] | Mapping[str, Any] | None = None,
    *,
    mix: Mapping[str, float] | None = None,
    groups: Mapping[str, Mapping[str, Any]] | None = None,
    users: int | Sequence[tuple[Seconds, int]] | None = None,
    iterations: int | None = None,
    shared_iterations: int | None = None,
    duration: Seconds | None = None,
    burst: int | None = None,
    rate: str | Sequence[tuple[Seconds, str]] | None = None,
    arrival: Literal["constant", "poisson"] = "constant",
    trace: str | PathLike[str] | None = None,
    window: str | None = None,
    speed: float | None = None,
    max_in_flight: int | None = None,
    think_time: Seconds | tuple[Seconds, Seconds] | DistributionSpec = 0,
    preset: Literal["smoke", "load", "stress", "spike", "soak", "breakpoint"] | None = None,
    warmup: int = 1,
    timeout: Seconds = "300s",
    queue_timeout: Seconds | None = None,
    drain: Seconds | None = None,
    inputs: Mapping[str, Any] | None = None,
    prompts: Sequence[str] | str | PathLike[str] | None = None,
    extra_data: Mapping[str, Any] | None = None,
    vary_text: bool = True,
    seed: int | None = None,
    must_run: Sequence[str] | None = None,
    allow_cached: bool = False,
    servers: str | int | Sequence[str | int] = "all",
    balance: Literal["least_queue", "round_robin", "sticky"] = "least_queue",
    sockets: Literal["per_user", "shared"] | None = None,
    fetch: bool = True,
    max_send_lag: Seconds = "100ms",
    on_foreign: Literal["mark", "fail", "wait"] = "mark",
    abort_on_failure_rate: float | None = None,
    abort_on_saturation: bool = False,
    gate: str | Sequence[str] = GATE,
    id: str | None = None,
    allow_api_nodes: bool = False,
) -> pytest.MarkDecorator:
    """Run this load before the test body; on a module or class, once for all of its tests."""
    arguments = {name: value for name, value in locals().items() if name in DEFAULTS and value is not DEFAULTS[name]}
    mark: pytest.MarkDecorator = pytest.mark.load_scenario
    bare: object = workflow
    if callable(bare):
        # `@load_scenario` without parentheses: mark the test, so that its collection can report what is missing.
        marked: Any = mark(bare)
        return cast("pytest.MarkDecorator", marked)
    return mark.with_args(**arguments)


load_scenario.__doc__ = f"{load_scenario.__doc__}\n\n{described()}"


def param(name: str) -> Param:
    """Return a placeholder for `inputs`, replaced by the value of the test's parametrised argument `name`."""
    return Param(name)


@dataclass(frozen=True, slots=True)
class MarkedScenario:
    """Scenario of an item. Items with the same `key` share one run, which is named `title`.

    `name` is the same in every process that has collected the item. `parameters` are those that the run depends on.
    `repetition` identifies a repeated run of the test; empty for the first run.
    """

    scenario: Scenario
    title: str
    key: tuple[Any, ...]
    files: Path
    name: str
    parameters: str = ""
    repetition: str = ""


# Arguments that decide whether a load can be sent at all; the others only shape it.
_SENT = ("workflow", "mix", "groups", "inputs", "prompts", "must_run", "gate")


def check_marks(obj: object, files: Path, node_names: Sequence[str], valid: set[bytes]) -> None:
    """Check everything about the marks on a module, class or function that is known at collection.

    Args:
        valid: Pickles of earlier marks and of what they send, which are not checked again; new ones are added.

    Raises:
        UsageError: A mark is invalid.
    """
    marks = own_marks(obj)
    try:
        _expect_one(marks)
        for mark in marks:
            whole = _pickled(files, mark.args, mark.kwargs)
            if whole in valid:
                continue
            scenario = Scenario.build_in(files, *mark.args, **mark.kwargs)
            sent = _pickled(files, mark.args, [mark.kwargs.get(name) for name in _SENT])
            if sent not in valid:
                _check(scenario, files)
            valid.update(filter(None, (whole, sent)))
    except ComfyloadError as error:
        raise UsageError(f"{'::'.join(node_names)}: {error}") from None


def _pickled(*values: object) -> bytes | None:
    """Return bytes that are equal only for equal values; None if the values cannot be pickled."""
    try:
        return pickle.dumps(values)
    except Exception:  # an object of the user may raise anything
        return None


def _expect_one(marks: Sequence[pytest.Mark]) -> None:
    if len(marks) > 1:
        raise UsageError(
            f"load_scenario is given {len(marks)} times; a test has one load: keep one, "
            'or combine them as load_scenario(groups={"a": dict(...), "b": dict(...)})'
        )


def _check(scenario: Scenario, files: Path) -> None:
    from pytest_comfyload.workflow.prompts import LoadedPart, expect_gates

    parts = [LoadedPart.load(name, part, files) for name, part in scenario.parts]
    expect_gates(scenario.gates, parts)
    for part in parts:
        part.check({address for address, value in part.scenario.inputs.items() if isinstance(value, Param)})


def marked_scenario(item: pytest.Item) -> MarkedScenario | None:
    """Return the scenario of the closest mark, with parametrised inputs filled in; None without one.

    Raises: UsageError.
    """
    for node in item.iter_parents():
        marks = [mark for mark in node.own_markers if mark.name == MARK]
        if not marks:
            continue
        # pytest lists marks of base classes before those of the class, and marks of a function before its parameters'.
        mark = marks[-1]
        scenario = Scenario.build_in(item.path.parent, *mark.args, **mark.kwargs)
        parameters = _parameters(scenario, item, alone=node is item)
        scenario = _with_parameters(scenario, item)
        title = scenario.id or test_id(node)
        repetition = repetition_of(item)
        name = f"{node.nodeid} {[sorted(part.inputs.items()) for _, part in scenario.parts]!r} {repetition}"
        return MarkedScenario(scenario, title, (id(mark), name), item.path.parent, name, parameters, repetition)
    return None


def _with_parameters(scenario: Scenario, item: pytest.Item) -> Scenario:
    groups = {name: _with_parameters(group, item) for name, group in scenario.groups.items()}
    return replace(scenario, inputs=dict(_filled(scenario.inputs, item)), groups=groups)


def _parameters(scenario: Scenario, item: pytest.Item, *, alone: bool) -> str:
    """Return all parameters of the item if the run is its own; else those in its inputs, since others share the run."""
    callspec = getattr(item, "callspec", None)
    if callspec is None:
        return ""
    if alone:
        return parameters_of(item)
    named = {value.name for _, part in scenario.parts for value in part.inputs.values() if isinstance(value, Param)}
    return ", ".join(f"{name}={callspec.params[name]}" for name in sorted(named & callspec.params.keys()))


def _filled(inputs: Mapping[str, Any], item: pytest.Item) -> Iterator[tuple[str, Any]]:
    callspec = getattr(item, "callspec", None)
    params: Mapping[str, Any] = callspec.params if callspec is not None else {}
    for address, value in inputs.items():
        if not isinstance(value, Param):
            yield address, value
        elif value.name in params:
            yield address, params[value.name]
        else:
            legal = ", ".join(params) or "none"
            raise UsageError(f"param({value.name!r}): the test is not parametrised by it; parameters: {legal}")
