"""JSON as servers send it: decoded within bounds, and read value by value without trust."""

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
    "write_json",
]

# Characters of JSON for each value in it, at least, where there are many. Real messages have 15 and more; an empty list
# has 3, and takes 64 bytes of memory.
_PER_VALUE = 8
_FEW_VALUES = 1_000_000


class NotJson(ValueError):
    """A text cannot be used as JSON; the message says why."""


def parse_json(text: str | bytes) -> Any:
    """Return what JSON says. Raises: NotJson, also for what would take many times its size in memory.

    The standard library says what is JSON: msgspec, which is faster, decodes the same to the same, and refuses more
    (NaN, numbers beyond a float, half characters, UTF-16); what it refuses is decided by the standard library.
    """
    # A suite without load tests reads no JSON.
    import msgspec

    if len(text) > _FEW_VALUES:
        _expect_few_values(text)
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _parse_json_plainly(text)


def _expect_few_values(text: str | bytes) -> None:
    """Raises: NotJson."""
    values = sum(map(text.count, ",[{")) if isinstance(text, str) else sum(map(text.count, (b",", b"[", b"{")))
    if values > max(_FEW_VALUES, len(text) // _PER_VALUE):
        raise NotJson(f"it holds {values:,} values")


def _parse_json_plainly(text: str | bytes) -> Any:
    """Raises: NotJson."""
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
    """Return a value as JSON. What msgspec cannot write, or would write as null, is left to the standard library."""
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
    """Return what JSON calls a value of this kind, for sentences."""
    return _JSON_NAMES.get(type(value), type(value).__name__)


def finite(value: object) -> float | None:
    """A JSON number as a float; None for anything else, a bool, and what no float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def milliseconds(value: object) -> float | None:
    """A stamp in seconds; None for what is no number, or too large to hold single milliseconds."""
    stamp = finite(value)
    return None if stamp is None or abs(stamp) > 2**53 else stamp / 1000


def storable(text: str) -> str:
    """JSON can escape half a character, which no file and no terminal takes: such a half becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def json_object(body: object, route: str) -> Mapping[str, Any]:
    """Return the body of a route, which must be a JSON object. Raises: NotComfyUI."""
    if not isinstance(body, dict):
        raise NotComfyUI(f"{route} answered with {json_name(body)} where ComfyUI sends a JSON object")
    return body


def as_dict(value: object) -> Mapping[str, Any]:
    """Return a JSON object; anything else is an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> Sequence[Any]:
    """Return a JSON list; anything else is an empty one."""
    return value if isinstance(value, list) else ()
