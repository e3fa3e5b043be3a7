"""Conversion of the arguments that shape a load to an executor; contradictory ones are refused with a remedy."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.arrival_trace import read_trace
from pytest_comfyload.metrics.units import as_float
from pytest_comfyload.scenario.argument_values import positive_duration, whole_number
from pytest_comfyload.scenario.executors import (
    ArrivalRate,
    Burst,
    ConstantUsers,
    Executor,
    PerUserIterations,
    RampingUsers,
    RecordedArrivals,
    SharedIterations,
    UserStage,
)
from pytest_comfyload.scenario.pacing import RateStage, parse_rate
from pytest_comfyload.user_paths import user_path

__all__ = ["PRESETS", "STRESSING", "executor_of"]

# The purpose of each preset; `users` is the ordinary number of users, five if not given.
PRESETS: Mapping[str, str] = {
    "smoke": "does it work: one user, three prompts",
    "load": "ordinary load: ramp up to `users`, hold for five minutes, ramp down",
    "stress": "above ordinary load: ramp up to `users`, then to twice as many",
    "spike": "sudden peak: ten times `users` for a minute",
    "soak": "hours of ordinary load: finds leaks and slowdowns",
    "breakpoint": "rising arrivals until a limit is reached",
}
# Presets that make everybody else on the server wait.
STRESSING = ("stress", "spike", "breakpoint")
_USERS = 5


def executor_of(value: Mapping[str, Any], folder: Path) -> Executor:
    """Build the executor from all arguments of a scenario; a relative path starts at `folder`.

    Raises: UsageError.
    """
    _refuse_without(value, "trace", ("window", "speed"), "'week.jsonl'")
    if value["preset"] is not None:
        return _preset(value)
    if value["trace"] is not None:
        return _recorded_arrivals(value, folder)
    if value["rate"] is not None:
        return _arrival_rate(value)
    _refuse_without(value, "rate", ("max_in_flight",), "'6/min'")
    if value["arrival"] != "constant":
        raise UsageError(f"arrival={value['arrival']!r} needs rate=, such as rate='6/min'")
    _refuse_together(value, "burst", ("users", "iterations", "shared_iterations", "duration"))
    _refuse_together(value, "duration", ("iterations", "shared_iterations"))
    _refuse_together(value, "shared_iterations", ("iterations",))
    if value["burst"] is not None:
        return Burst(whole_number(value["burst"], "burst"))
    if isinstance(value["users"], list | tuple):
        _refuse_together(value, "users", ("iterations", "shared_iterations", "duration"))
        return RampingUsers(_user_stages(value["users"]))
    users = 1 if value["users"] is None else whole_number(value["users"], "users")
    if value["duration"] is not None:
        return ConstantUsers(users, positive_duration(value["duration"], "duration"))
    if value["shared_iterations"] is not None:
        return SharedIterations(users, whole_number(value["shared_iterations"], "shared_iterations"))
    return PerUserIterations(
        users, 1 if value["iterations"] is None else whole_number(value["iterations"], "iterations")
    )


def _recorded_arrivals(value: Mapping[str, Any], folder: Path) -> RecordedArrivals:
    _refuse_together(value, "trace", ("users", "iterations", "shared_iterations", "duration", "burst", "rate"))
    if value["arrival"] != "constant":
        raise UsageError(
            f"arrival={value['arrival']!r} and trace={value['trace']!r} contradict each other; give only one"
        )
    path = value["trace"]
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"trace={path!r} is not the path of a trace, such as 'week.jsonl'")
    trace = read_trace(folder / user_path(os.fspath(path)), Path(path).name)
    window, limit = value["window"], value["max_in_flight"]
    executor = RecordedArrivals.of(
        trace,
        "all" if window is None else window,
        1.0 if value["speed"] is None else _speed(value["speed"]),
        None if limit is None else whole_number(limit, "max_in_flight"),
    )
    if not executor.times:
        raise UsageError(f"{executor.origin} has no arrivals")
    return executor


def _speed(value: object) -> float:
    speed = as_float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not 0.001 <= speed <= 1000:
        raise UsageError(
            f"speed={value!r} is not a number from 0.001 to 1000, such as 1.4 for 40 % more prompts a minute"
        )
    return speed


def _arrival_rate(value: Mapping[str, Any]) -> ArrivalRate:
    _refuse_together(value, "rate", ("users", "iterations", "shared_iterations", "burst"))
    if value["arrival"] not in ("constant", "poisson"):
        raise UsageError(f"arrival={value['arrival']!r}; legal: constant, poisson")
    limit = value["max_in_flight"]
    return ArrivalRate(
        stages=_rate_stages(value),
        poisson=value["arrival"] == "poisson",
        max_in_flight=None if limit is None else whole_number(limit, "max_in_flight"),
    )


def _rate_stages(value: Mapping[str, Any]) -> tuple[RateStage, ...]:
    rate = value["rate"]
    if not isinstance(rate, list | tuple):
        per_second = _positive_rate(rate)
        if value["duration"] is None:
            raise UsageError(f"rate={rate!r} needs duration=, such as duration='10m'")
        return (RateStage(positive_duration(value["duration"], "duration"), per_second, per_second),)
    _refuse_together(value, "rate", ("duration",))
    stages, before = [], 0.0
    for duration, target in _pairs(rate, "rate", "'2/min'"):
        after = parse_rate(target, "rate")
        stages.append(RateStage(positive_duration(duration, "rate"), before, after))
        before = after
    if not any(stage.end for stage in stages):
        raise UsageError(f"rate={rate!r} never rises above 0")
    return tuple(stages)


def _positive_rate(rate: object) -> float:
    per_second = parse_rate(rate, "rate")
    if per_second == 0:
        raise UsageError(f"rate={rate!r} must be above 0")
    return per_second


def _user_stages(users: Sequence[Any]) -> tuple[UserStage, ...]:
    stages = tuple(
        UserStage(positive_duration(duration, "users"), whole_number(target, "users", least=0))
        for duration, target in _pairs(users, "users", "2")
    )
    if not any(stage.target for stage in stages):
        raise UsageError(f"users={users!r} never rises above 0")
    return stages


def _pairs(stages: Sequence[Any], name: str, example: str) -> Sequence[tuple[Any, Any]]:
    if not stages or not all(isinstance(stage, list | tuple) and len(stage) == 2 for stage in stages):
        raise UsageError(f"{name}={stages!r} is not a list of stages, such as [('1m', {example})]")
    return stages


def _preset(value: Mapping[str, Any]) -> Executor:
    preset = value["preset"]
    if not isinstance(preset, str) or preset not in PRESETS:
        raise UsageError(f"preset={preset!r}; legal: {', '.join(PRESETS)}")
    _refuse_together(value, "preset", ("iterations", "shared_iterations", "burst", "rate", "max_in_flight", "trace"))
    users = _USERS if value["users"] is None else whole_number(value["users"], "users")
    if preset != "soak":
        _refuse_together(value, "preset", ("duration",))
    hours = positive_duration(value["duration"] or "2h", "duration")
    shapes: Mapping[str, Executor] = {
        "smoke": PerUserIterations(1, 3),
        "load": _ramp((60, users), (300, users), (60, 0)),
        "stress": _ramp((120, users), (300, users), (120, 2 * users), (300, 2 * users), (120, 0)),
        "spike": _ramp((30, users), (120, users), (10, 10 * users), (60, 10 * users), (10, users), (120, users)),
        "soak": ConstantUsers(users, hours),
        "breakpoint": ArrivalRate((RateStage(1200.0, 0.0, users / 5),)),
    }
    return shapes[preset]


def _ramp(*stages: tuple[float, int]) -> RampingUsers:
    return RampingUsers(tuple(UserStage(duration, target) for duration, target in stages))


def _refuse_together(value: Mapping[str, Any], name: str, others: Sequence[str]) -> None:
    for other in others:
        if value[name] is not None and value[other] is not None:
            raise UsageError(
                f"{name}={value[name]!r} and {other}={value[other]!r} contradict each other; give only one"
            )


def _refuse_without(value: Mapping[str, Any], name: str, others: Sequence[str], example: str) -> None:
    for other in others:
        if value[name] is None and value[other] is not None:
            raise UsageError(f"{other}={value[other]!r} needs {name}=, such as {name}={example}")
