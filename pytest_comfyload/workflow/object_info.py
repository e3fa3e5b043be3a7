"""Servers' declarations of node classes and their inputs: /object_info in both of its formats."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_comfyload.errors import nearest

__all__ = ["UNKNOWN", "InputSpec", "ObjectInfo", "is_whole", "spec_of_present"]

BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_NUMBERS = frozenset({"INT", "FLOAT", "NUMBER"})
_WHOLE = re.compile(r"[+-]?\d+")
# Python does not convert longer texts to numbers.
_MOST_DIGITS = 4000


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a node class: its type, its options or range, and whether it is required."""

    kind: str  # INT FLOAT BOOLEAN STRING COMBO; NUMBER or ANY before a server was queried; else a link-only type
    options: tuple[Any, ...] | None = None  # of a COMBO; None if only the server knows them
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    required: bool = False
    upload: bool = False  # the options are the files of one folder; values may name files elsewhere

    def convert(self, value: Any) -> Any:
        """Convert `value`, which may be text from a command line, to the type of this input. Raises ValueError.

        Options and bounds are not checked; the server does that.
        """
        match self.kind:
            case "COMBO":
                return self.spelled(value)
            case "INT" | "FLOAT" | "NUMBER":
                return _number(self.kind, value)
            case "BOOLEAN":
                return _boolean(value)
            case "STRING":
                return _text(value)
        return _scalar(value) if isinstance(value, str) else value

    def surely_takes(self, values: Sequence[Any]) -> bool:
        """Return whether `convert` and JSON are known to accept all values by their types, in one pass.

        If False, each value must be converted to find out.
        """
        kinds = set(map(type, values))
        if kinds == {str}:
            return self.kind not in _NUMBERS | {"BOOLEAN"}
        if not kinds <= {int, float} or self.kind in ("STRING", "BOOLEAN") or (self.kind == "INT" and float in kinds):
            return False
        try:
            return all(map(math.isfinite, values))
        except OverflowError:
            return False

    def surely_has(self, values: Sequence[Any]) -> bool:
        """Return whether all values are known to be numbers within the bounds; if False, each must be checked."""
        if self.kind not in ("INT", "FLOAT") or not set(map(type, values)) <= {int, float}:
            return False
        return self.surely_takes(values) and self.admits(min(values)) and self.admits(max(values))

    def choose(self, value: Any) -> Any:
        """Return the option that equals `value`, ignoring the direction of slashes. Raises ValueError."""
        if self.options is None or value in self.options or (self.upload and _names_a_folder(value)):
            return value
        for option in self.options:
            if isinstance(value, str) and _plain(option) == _plain(value):
                return option
        raise ValueError

    def spelled(self, value: Any) -> Any:
        """Return the option that `choose` finds, or `value` itself."""
        try:
            return self.choose(value)
        except ValueError:
            return value

    def admits(self, number: float) -> bool:
        """Return whether `number` lies within minimum and maximum."""
        low = -math.inf if self.minimum is None else self.minimum
        high = math.inf if self.maximum is None else self.maximum
        return low <= number <= high

    def wants(self, value: object) -> str:
        """Describe the legal values, for the message about an illegal `value`."""
        if self.kind == "COMBO":
            options = self.options or ()
            return f"the server has {nearest(str(value), options)}" if options else "the server has none"
        bounds = [f"from {self.minimum}"] if self.minimum is not None else []
        bounds += [f"to {self.maximum}"] if self.maximum is not None else []
        return " ".join(["wants", self.kind, *bounds])


class ObjectInfo:
    """The node classes of a server; `ObjectInfo()`, before a server was queried, knows none.

    Declarations are parsed when first needed, then cached.
    """

    def __init__(self, classes: Mapping[str, Any] | None = None) -> None:
        self.known = classes is not None
        self._classes: Mapping[str, Any] = classes or {}
        self._specs: dict[str, dict[str, InputSpec]] = {}

    def __contains__(self, class_type: object) -> bool:
        return class_type in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def specs(self, class_type: str) -> Mapping[str, InputSpec]:
        """Return the inputs of a node class by name; empty if the class is unknown."""
        if class_type not in self._specs:
            inputs = _mapping(self.entry(class_type).get("input"))
            required, optional = _mapping(inputs.get("required")), _mapping(inputs.get("optional"))
            declared = {**required, **optional}
            self._specs[class_type] = {name: _read(raw, required=name in required) for name, raw in declared.items()}
        return self._specs[class_type]

    def spec(self, class_type: str, name: str) -> InputSpec | None:
        """Return one input of a node class; None if it is unknown."""
        return self.specs(class_type).get(name)

    def is_output(self, class_type: str) -> bool | None:
        """Return whether nodes of the class are outputs, which servers execute for their own sake; None if unknown."""
        declared = self.entry(class_type).get("output_node")
        return declared if isinstance(declared, bool) else None

    def entry(self, class_type: str) -> Mapping[str, Any]:
        """Return the server's entry for the class; empty if the class is unknown."""
        return _mapping(self._classes.get(class_type))


UNKNOWN = ObjectInfo()


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def spec_of_present(value: object) -> InputSpec:
    """Return the type of an input as inferred from its current value; a whole number may also be a FLOAT."""
    kinds = {bool: "BOOLEAN", int: "NUMBER", float: "FLOAT", str: "STRING"}
    return InputSpec(kinds.get(type(value), "ANY"))


def _read(raw: Any, *, required: bool) -> InputSpec:
    kind = raw[0] if isinstance(raw, list) and raw else "ANY"
    settings = raw[1] if isinstance(raw, list) and len(raw) > 1 and isinstance(raw[1], Mapping) else {}
    options = kind if isinstance(kind, list) else settings.get("options") if kind == "COMBO" else None
    return InputSpec(
        kind="COMBO" if isinstance(kind, list) else str(kind),
        # Lists and dicts cannot be chosen, and a spec must be hashable.
        options=tuple(each for each in options if not isinstance(each, list | dict))
        if isinstance(options, list)
        else None,
        minimum=_bound(settings.get("min")),
        maximum=_bound(settings.get("max")),
        step=_bound(settings.get("step")),
        required=required,
        upload=any(str(key).endswith("_upload") for key in settings),
    )


def _bound(value: object) -> float | None:
    """Return a finite bound, or None: nodes also declare infinity, NaN, None or text, which bound nothing."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if -sys.float_info.max <= value <= sys.float_info.max else None


def _number(kind: str, value: object) -> float:
    if type(value) is int and kind != "FLOAT":  # the most frequent case, when there are very many values
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    if kind == "INT" and isinstance(value, float):
        raise ValueError
    if kind != "FLOAT" and not isinstance(value, float) and is_whole(value):
        return int(value)
    if kind == "INT":
        raise ValueError
    return _finite(value)


def _finite(value: float | str) -> float:
    try:
        number = float(value)
    except OverflowError:
        raise ValueError from None
    if not math.isfinite(number):
        raise ValueError
    return number


def is_whole(value: object) -> bool:
    """Return whether a server reads `value` as a whole number for an INT: 42, 42.0 and "42"."""
    if isinstance(value, str):
        return len(value) <= _MOST_DIGITS and _WHOLE.fullmatch(value.strip()) is not None
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1


def _boolean(value: object) -> bool:
    if isinstance(value, str) and value.lower() in BOOLEANS:
        return BOOLEANS[value.lower()]
    if isinstance(value, bool):
        return value
    raise ValueError


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _scalar(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)) else text


def _names_a_folder(value: object) -> bool:
    """Return whether a value names a file outside the listed folder: `masks/a.png`, `a.png [output]`."""
    return isinstance(value, str) and ("/" in value or "\\" in value or value.endswith("]"))


def _plain(value: object) -> str:
    return str(value).replace("\\", "/")
