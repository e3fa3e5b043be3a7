"""Readers of arguments, which return the value for a Scenario or raise UsageError, and other tools' argument names."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from pytest_comfyload.errors import UsageError, close_to
from pytest_comfyload.metrics.registry import GATE
from pytest_comfyload.metrics.units import parse_duration
from pytest_comfyload.redaction import hide_named

__all__ = [
    "as_given",
    "flag",
    "gates",
    "hint_for",
    "inputs",
    "node_classes",
    "one_of",
    "optional",
    "percentage",
    "positive_duration",
    "prompts",
    "series_id",
    "whole_number",
]


def whole_number(value: object, name: str, least: int = 1) -> int:
    """Check that the value is an integer of at least `least`. Raises: UsageError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name}={value!r} is not a whole number of at least {least}")
    return value


def positive_duration(value: object, name: str) -> float:
    """Return a positive duration in seconds. Raises: UsageError."""
    seconds = parse_duration(value, name)
    if seconds == 0:
        raise UsageError(f'{name}={value!r} is not positive; give seconds, or a text such as "45m"')
    return seconds


def optional(parse: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    return lambda value, name: None if value is None else parse(value, name)


def as_given(value: object, name: str) -> object:
    """Return the value unchanged, for arguments that are checked together with others."""
    return value


def flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{name}={value!r} is neither True nor False")
    return value


def percentage(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise UsageError(f"{name}={value!r} is not a percentage from 0 to 100")
    return float(value)


def one_of(*legal: str) -> Callable[[Any, str], str]:
    def parse(value: object, name: str) -> str:
        if value not in legal:
            raise UsageError(f"{name}={value!r}; legal: {', '.join(legal)}")
        return str(value)

    return parse


def inputs(value: object, name: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if isinstance(value, Mapping):
        hide_named(value)
    if not isinstance(value, Mapping) or not all(isinstance(key, str) and "." in key for key in value):
        raise UsageError(f"{name}={value!r} is not a dict of 'node.input' to value, such as {{'KSampler.steps': 20}}")
    return value


def prompts(value: object, name: str) -> Sequence[str] | str | os.PathLike[str] | None:
    if value is None or isinstance(value, str | os.PathLike):
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(text, str) for text in value):
        return value
    raise UsageError(f"{name}={value!r} is neither a list of texts nor the path of a text file")


def node_classes(value: object, name: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) and each for each in value):
        raise UsageError(f"{name}={value!r} is not a list of node classes, such as ['KSampler']")
    return tuple(value)


def gates(value: object, name: str) -> tuple[str, ...]:
    gates = value if isinstance(value, list | tuple) else [value]
    if not gates or not all(isinstance(each, str) and each for each in gates):
        raise UsageError(f"{name}={value!r}: give the name of a figure, such as {GATE!r}, or a list of names")
    return tuple(dict.fromkeys(gates))


def series_id(value: object, name: str) -> str | None:
    if value is not None and (not isinstance(value, str) or not value):
        raise UsageError(f"{name}={value!r} is not a text")
    return value


# What to write here, and the names that other load generators use for it.
_ELSEWHERE: Mapping[str, tuple[str, ...]] = {
    "users=N": ("concurrency", "vus", "virtual_users", "num_users", "clients", "workers", "threads", "parallel"),
    "users=[('1m', 2), ('3m', 8)]": ("stages", "ramp", "ramp_up", "rampup", "spawn_rate"),
    "iterations=5 (prompts of each user)": ("requests", "num_requests", "n", "count", "repeat", "repeats", "rounds"),
    "shared_iterations=20 (prompts of all users together)": ("total", "total_requests", "num_prompts", "max_requests"),
    "rate='6/min'": ("rps", "qps", "rpm", "request_rate", "arrival_rate", "requests_per_second", "prompts_per_minute"),
    "duration='5m'": ("run_time", "runtime", "time", "seconds", "minutes", "max_duration", "duration_seconds"),
    "max_in_flight=8": ("max_concurrency", "max_users", "in_flight", "queue_limit"),
    "think_time='5s'": ("wait_time", "wait", "sleep", "delay", "pause", "pacing"),
    "warmup=1": ("warm_up", "warmups", "warmup_iterations", "warmup_requests"),
    "inputs={'KSampler.steps': 20}": ("params", "parameters", "overrides", "values", "variables", "node_inputs"),
    "--comfyui-url=http://host:8188 on the command line": ("url", "urls", "host", "hosts", "base_url", "comfyui_url"),
    "an assert in the test, such as `assert load.total_time.p95 < 60`": ("slo", "slos", "threshold", "thresholds"),
}
_HINTS = {name: hint for hint, names in _ELSEWHERE.items() for name in names}


def hint_for(name: str, legal: Collection[str]) -> str:
    """Return a hint about what to write instead of an unknown argument."""
    if name in _HINTS:
        return f"write {_HINTS[name]}"
    near = close_to(name, legal, limit=1)
    return f"did you mean {near[0]}?" if near else f"legal: {', '.join(legal)}"
