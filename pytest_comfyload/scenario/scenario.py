"""A scenario says what load to apply; arguments that contradict each other never become one."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_comfyload.errors import UsageError
from pytest_comfyload.scenario.executors import Burst, ConstantUsers, Executor, PerUserIterations
from pytest_comfyload.scenario.units import parse_duration

__all__ = ["DEFAULTS", "Param", "Scenario", "WorkflowSource"]

WorkflowSource = str | os.PathLike[str] | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Param:
    """Stands for the value of a parametrised argument of the test, in `inputs`."""

    name: str


# Every argument of `load_scenario` with its default; the order is that of the signature.
DEFAULTS: Mapping[str, Any] = {
    "workflow": None,
    "mix": None,
    "groups": None,
    "users": None,
    "iterations": None,
    "shared_iterations": None,
    "duration": None,
    "burst": None,
    "rate": None,
    "arrival": "constant",
    "max_in_flight": None,
    "think_time": 0,
    "preset": None,
    "warmup": 1,
    "timeout": "300s",
    "queue_timeout": None,
    "drain": None,
    "inputs": None,
    "prompts": None,
    "seed": None,
    "must_run": None,
    "allow_cached": False,
    "servers": "all",
    "balance": "least_queue",
    "fetch": True,
    "max_send_lag": "100ms",
    "on_foreign": "mark",
    "id": None,
    "allow_api_nodes": False,
}

_NOT_BUILT = (
    "mix", "groups", "shared_iterations", "rate", "arrival", "max_in_flight", "preset", "servers", "balance",
    "on_foreign",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scenario:
    """What load to apply. Times are seconds; `queue_timeout` None: as long as the server shows signs of life."""

    workflow: WorkflowSource
    executor: Executor
    warmup: int = 1
    timeout: float = 300.0
    queue_timeout: float | None = None
    drain: float = 300.0
    inputs: Mapping[str, Any] = field(default_factory=dict)
    prompts: Sequence[str] | str | os.PathLike[str] | None = None
    seed: int | None = None
    must_run: tuple[str, ...] = ()
    allow_cached: bool = False
    fetch: bool = True
    max_send_lag: float = 0.1
    id: str | None = None
    allow_api_nodes: bool = False

    @classmethod
    def build(cls, *args: Any, **kwargs: Any) -> Scenario:
        """From the arguments of `load_scenario`. Raises: UsageError, naming the argument and the way out."""
        given = _given(args, kwargs)
        _refuse_unbuilt(given)
        value = {**DEFAULTS, **given}
        timeout = _positive_duration(value["timeout"], "timeout")
        return cls(
            workflow=_workflow(value["workflow"]),
            executor=_executor(value),
            warmup=_count(value["warmup"], "warmup", least=0),
            timeout=timeout,
            queue_timeout=_optional(value["queue_timeout"], "queue_timeout"),
            drain=timeout if value["drain"] is None else parse_duration(value["drain"], "drain"),
            inputs=_inputs(value["inputs"]),
            prompts=_prompts(value["prompts"]),
            seed=None if value["seed"] is None else _count(value["seed"], "seed", least=0),
            must_run=_must_run(value["must_run"]),
            allow_cached=_flag(value["allow_cached"], "allow_cached"),
            fetch=_flag(value["fetch"], "fetch"),
            max_send_lag=_positive_duration(value["max_send_lag"], "max_send_lag"),
            id=_id(value["id"]),
            allow_api_nodes=_flag(value["allow_api_nodes"], "allow_api_nodes"),
        )

    @property
    def workflow_name(self) -> str:
        return "workflow" if isinstance(self.workflow, Mapping) else os.fspath(self.workflow)

    def __str__(self) -> str:
        return f"{self.workflow_name}, {self.executor}"


def _given(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    if len(args) > 1:
        raise UsageError(f"load_scenario takes one positional argument, the workflow; {len(args)} were given")
    for name in kwargs:
        if name not in DEFAULTS:
            near = difflib.get_close_matches(name, DEFAULTS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"legal: {', '.join(DEFAULTS)}"
            raise UsageError(f"load_scenario has no argument {name!r}; {hint}")
    if args and "workflow" in kwargs:
        raise UsageError("load_scenario got the workflow twice: as first argument and as workflow=")
    return {**({"workflow": args[0]} if args else {}), **kwargs}


def _refuse_unbuilt(given: Mapping[str, Any]) -> None:
    for name in _NOT_BUILT:
        if name in given and given[name] != DEFAULTS[name]:
            raise UsageError(f"load_scenario({name}={given[name]!r}) is not built yet; leave {name} out")
    users = given.get("users")
    if isinstance(users, list | tuple):
        raise UsageError(f"load_scenario(users={users!r}) is not built yet; give users= a number")


def _executor(value: Mapping[str, Any]) -> Executor:
    _refuse_together(value, "burst", ("users", "iterations", "duration"))
    _refuse_together(value, "duration", ("iterations",))
    think_time = parse_duration(value["think_time"], "think_time")
    if value["burst"] is not None:
        return Burst(_count(value["burst"], "burst"))
    users = 1 if value["users"] is None else _count(value["users"], "users")
    if value["duration"] is not None:
        return ConstantUsers(users, _positive_duration(value["duration"], "duration"), think_time)
    iterations = 1 if value["iterations"] is None else _count(value["iterations"], "iterations")
    return PerUserIterations(users, iterations, think_time)


def _refuse_together(value: Mapping[str, Any], name: str, others: Sequence[str]) -> None:
    for other in others:
        if value[name] is not None and value[other] is not None:
            raise UsageError(
                f"{name}={value[name]!r} and {other}={value[other]!r} contradict each other; give only one"
            )


def _workflow(value: object) -> WorkflowSource:
    if value is None:
        raise UsageError("load_scenario needs a workflow: a name ('txt2img'), a path to an API-format file, or a dict")
    if not isinstance(value, str | os.PathLike | Mapping):
        raise UsageError(f"workflow={value!r} is neither a name, a path nor a dict")
    return value


def _count(value: object, name: str, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name}={value!r} is not a whole number of at least {least}")
    return value


def _positive_duration(value: object, name: str) -> float:
    seconds = parse_duration(value, name)
    if seconds == 0:
        raise UsageError(f"{name}={value!r} must be longer than nothing")
    return seconds


def _optional(value: object, name: str) -> float | None:
    return None if value is None else _positive_duration(value, name)


def _flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{name}={value!r} is neither True nor False")
    return value


def _inputs(value: object) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) and "." in key for key in value):
        raise UsageError(f"inputs={value!r} is not a dict of 'node.input' to value, such as {{'KSampler.steps': 20}}")
    return value


def _prompts(value: object) -> Sequence[str] | str | os.PathLike[str] | None:
    if value is None or isinstance(value, str | os.PathLike):
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(text, str) for text in value):
        return value
    raise UsageError(f"prompts={value!r} is neither a list of texts nor the path of a text file")


def _must_run(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) and name for name in value):
        raise UsageError(f"must_run={value!r} is not a list of node classes, such as ['KSampler']")
    return tuple(value)


def _id(value: object) -> str | None:
    if value is not None and (not isinstance(value, str) or not value):
        raise UsageError(f"id={value!r} is not a text")
    return value
