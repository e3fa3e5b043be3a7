"""JSON from servers: decoded within limits, and read value by value without trusting its shape."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_comfyload.errors import NotComfyUI

__all__ = [
    "NotJson",
    "as_dict",
    "as_list",
    "finite",
    "json_name",
    "json_object",
    "milliseconds",
    "parse_json",
    "storable",
    "text_of",
    "write_json",
]

# Minimum characters of JSON per value, if there are many values. Real messages have 15 or more; an empty list has 3,
# and takes 64 bytes of memory.
_PER_VALUE = 8
_FEW_VALUES = 1_000_000


class NotJson(ValueError):
    """A text cannot be used as JSON; the message says why."""


def parse_json(text: str | bytes) -> Any:
    """Decode JSON. Raises: NotJson, also for what would take many times its size in memory.

    The standard library defines what is valid. msgspec is faster and decodes to the same values, but rejects more (NaN,
    numbers too large for a float, lone surrogates, UTF-16); what it rejects is left to the standard library.
    """
    # Imported here, since a suite without load tests reads no JSON.
    import msgspec

    if len(text) > _FEW_VALUES:
        _expect_few_values(text)
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _parse_json_plainly(text)


def _expect_few_values(text: str | bytes) -> None:
    """Reject text with too many values for its length. Raises: NotJson."""
    values = sum(map(text.count, ",[{")) if isinstance(text, str) else sum(map(text.count, (b",", b"[", b"{")))
    if values > max(_FEW_VALUES, len(text) // _PER_VALUE):
        raise NotJson(f"it holds {values:,} values")


def _parse_json_plainly(text: str | bytes) -> Any:
    """Decode JSON with the standard library. Raises: NotJson."""
    if not text.strip():
        raise NotJson("it is empty")
    try:
        return json.loads(text)
    except RecursionError:
        raise NotJson("it is nested too deep") from None
    except UnicodeDecodeError:
        raise NotJson("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise NotJson(str(error)) from None
    except ValueError:
        raise NotJson("a number in it has too many digits") from None


def write_json(value: object) -> bytes:
    """Encode a value as JSON; what msgspec cannot encode, or would encode as null, is left to the standard library."""
    import msgspec

    try:
        text = msgspec.json.encode(value)
    except (ValueError, TypeError, RecursionError):
        return json.dumps(value).encode()
    return json.dumps(value).encode() if b"null" in text else text


_JSON_NAMES: Mapping[type, str] = {
    type(None): "null",
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


def json_name(value: object) -> str:
    """Return JSON's name for the type of a value, for messages."""
    return _JSON_NAMES.get(type(value), type(value).__name__)


def finite(value: object) -> float | None:
    """Return a JSON number as a float; None for anything else, for a bool, and for what is not finite as a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def milliseconds(value: object) -> float | None:
    """Convert a stamp to seconds; None if it is not a number, or too large for a precision of milliseconds."""
    stamp = finite(value)
    return None if stamp is None or abs(stamp) > 2**53 else stamp / 1000


def storable(text: str) -> str:
    """Replace lone surrogates, which JSON can escape but neither files nor terminals accept, with question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def text_of(value: object) -> str:
    """Return a field that should hold text as storable text; empty if it is absent."""
    return storable(str(value or ""))


def json_object(body: object, route: str) -> Mapping[str, Any]:
    """Return the body of a route, which must be a JSON object. Raises: NotComfyUI."""
    if not isinstance(body, dict):
        raise NotComfyUI(f"{route} answered with {json_name(body)} where ComfyUI sends a JSON object")
    return body


def as_dict(value: object) -> Mapping[str, Any]:
    """Return a JSON object, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> Sequence[Any]:
    """Return a JSON list, or an empty one for anything else."""
    return value if isinstance(value, list) else ()
