"""How the values of arguments are read: each reader returns what a Scenario holds, or raises UsageError."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.registry import GATE
from pytest_comfyload.metrics.units import parse_duration
from pytest_comfyload.redaction import hide_named

__all__ = [
    "as_given",
    "flag",
    "gates",
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
    """Raises: UsageError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name}={value!r} is not a whole number of at least {least}")
    return value


def positive_duration(value: object, name: str) -> float:
    """Return seconds. Raises: UsageError."""
    seconds = parse_duration(value, name)
    if seconds == 0:
        raise UsageError(f'{name}={value!r} is not positive; give seconds, or a text such as "45m"')
    return seconds


def optional(parse: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    return lambda value, name: None if value is None else parse(value, name)


def as_given(value: object, name: str) -> object:
    """Return the value as it is, of arguments that are checked together with others."""
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
