"""WebSocket frames become frozen events; a frame that fits nothing becomes `UnknownMessage`, never an exception.

Stamps are the server's clock in seconds since the epoch (the wire has milliseconds); None where there is no number.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Event",
    "Executed",
    "Executing",
    "ExecutionCached",
    "ExecutionError",
    "ExecutionInterrupted",
    "ExecutionStart",
    "ExecutionSuccess",
    "FeatureFlags",
    "NodeProgress",
    "NotJson",
    "Preview",
    "Progress",
    "ProgressState",
    "ProgressText",
    "Status",
    "UnknownMessage",
    "finite",
    "json_name",
    "milliseconds",
    "parse_event",
    "parse_frame",
    "parse_json",
    "storable",
]


@dataclass(frozen=True, slots=True)
class Status:
    """The queue's length, told to every socket; `sid` only on the first one."""

    queue_remaining: int
    sid: str | None


@dataclass(frozen=True, slots=True)
class FeatureFlags:
    flags: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ExecutionStart:
    prompt_id: str
    stamp: float | None


@dataclass(frozen=True, slots=True)
class ExecutionCached:
    prompt_id: str
    stamp: float | None
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExecutionSuccess:
    prompt_id: str
    stamp: float | None


@dataclass(frozen=True, slots=True)
class ExecutionError:
    """An execution that failed. The node's `current_inputs` are left on the wire: they may hold secrets."""

    prompt_id: str
    stamp: float | None
    node_id: str
    node_type: str
    exception_type: str
    exception_message: str


@dataclass(frozen=True, slots=True)
class ExecutionInterrupted:
    prompt_id: str
    stamp: float | None
    node_id: str
    node_type: str


@dataclass(frozen=True, slots=True)
class Executing:
    """A node begins; `node` None: the prompt is over and its history is safe to read."""

    prompt_id: str | None
    node: str | None


@dataclass(frozen=True, slots=True)
class Executed:
    """A node with outputs for the user is through, from the cache or not."""

    prompt_id: str
    node: str
    output: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Progress:
    prompt_id: str | None
    node: str | None
    value: float
    max: float


@dataclass(frozen=True, slots=True)
class NodeProgress:
    node_id: str
    value: float
    max: float
    state: str


@dataclass(frozen=True, slots=True)
class ProgressState:
    """Where every node that has begun stands: `state` is pending, running, finished or error."""

    prompt_id: str
    nodes: tuple[NodeProgress, ...]


@dataclass(frozen=True, slots=True)
class Preview:
    """A picture in a binary frame; only newer servers, asked by feature flag, say of which prompt and node.

    `png`: its bytes, if it is one. Previews are JPEGs; a PNG is what SaveImageWebsocket delivers in place of a file.
    """

    size: int
    prompt_id: str | None = None
    node_id: str | None = None
    png: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ProgressText:
    node_id: str
    text: str


@dataclass(frozen=True, slots=True)
class UnknownMessage:
    """A frame outside the protocol: a custom node's own message, a newer server, or rubbish."""

    reason: str


Event = (
    Status
    | FeatureFlags
    | ExecutionStart
    | ExecutionCached
    | ExecutionSuccess
    | ExecutionError
    | ExecutionInterrupted
    | Executing
    | Executed
    | Progress
    | ProgressState
    | Preview
    | ProgressText
    | UnknownMessage
)


class _Misfit(Exception):
    """A field is missing or of the wrong type."""


def parse_frame(frame: str | bytes) -> Event:
    """One WebSocket frame, text (str) or binary (bytes), as an event."""
    if isinstance(frame, bytes):
        return _parse_binary(frame)
    try:
        message = parse_json(frame)
    except NotJson as error:
        return UnknownMessage(f"not JSON: {error}")
    if not isinstance(message, dict):
        return UnknownMessage("not an object")
    return parse_event(message.get("type"), message.get("data"))


def parse_event(kind: object, data: object) -> Event:
    """One message by its type and data: from the socket, or from `status.messages` in the history."""
    parser = _PARSERS.get(kind) if isinstance(kind, str) else None
    if parser is None:
        return UnknownMessage(f"type {kind[:40]!r}" if isinstance(kind, str) else "no type")
    if not isinstance(data, dict):
        return UnknownMessage(f"{kind} without data")
    try:
        return parser(data)
    except _Misfit as misfit:
        return UnknownMessage(f"{kind}: {misfit}")


# Characters of JSON for each value in it, at least, where there are many. Real messages have 15 and more; an empty list
# has 3, and takes 64 bytes of memory.
_PER_VALUE = 8
_FEW_VALUES = 1_000_000


class NotJson(ValueError):
    """A text cannot be used as JSON; the message says why."""


def parse_json(text: str | bytes) -> Any:
    """Return what JSON says. Raises: NotJson, also for what would take many times its size in memory."""
    if not text.strip():
        raise NotJson("it is empty")
    values = sum(map(text.count, ",[{")) if isinstance(text, str) else sum(map(text.count, (b",", b"[", b"{")))
    if values > max(_FEW_VALUES, len(text) // _PER_VALUE):
        raise NotJson(f"it holds {values:,} values")
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
    """What JSON calls a value of this kind, for sentences."""
    return _JSON_NAMES.get(type(value), type(value).__name__)


# --- fields ----------------------------------------------------------------------------------------------------------


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


def _text(data: Mapping[str, Any], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str):
        raise _Misfit(key)
    return storable(value)


def _maybe_text(data: Mapping[str, Any], key: str) -> str | None:
    return None if data.get(key) is None else _text(data, key)


def _number(data: Mapping[str, Any], key: str) -> float:
    number = finite(data.get(key))
    if number is None:
        raise _Misfit(key)
    return number


def _mapping(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data.get(key)
    if not isinstance(value, dict):
        raise _Misfit(key)
    return value


def _texts(data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = data.get(key)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _Misfit(key)
    return tuple(map(storable, value))


def _stamp(data: Mapping[str, Any]) -> float | None:
    """An event counts without its stamp: a prompt must end although the server's clock does not say when."""
    return milliseconds(data.get("timestamp"))


# --- text frames -----------------------------------------------------------------------------------------------------


def _status(data: Mapping[str, Any]) -> Status:
    remaining = _number(_mapping(_mapping(data, "status"), "exec_info"), "queue_remaining")
    return Status(int(remaining), _maybe_text(data, "sid"))


def _execution_error(data: Mapping[str, Any]) -> ExecutionError:
    return ExecutionError(
        _text(data, "prompt_id"),
        _stamp(data),
        _text(data, "node_id"),
        _text(data, "node_type"),
        _text(data, "exception_type"),
        _text(data, "exception_message"),
    )


def _interrupted(data: Mapping[str, Any]) -> ExecutionInterrupted:
    return ExecutionInterrupted(
        _text(data, "prompt_id"), _stamp(data), _text(data, "node_id"), _text(data, "node_type")
    )


def _executed(data: Mapping[str, Any]) -> Executed:
    # A node may end with `output: null`: it ran, and has nothing to show.
    output = {} if data.get("output") is None else _mapping(data, "output")
    return Executed(_text(data, "prompt_id"), _text(data, "node"), output)


def _progress(data: Mapping[str, Any]) -> Progress:
    return Progress(
        _maybe_text(data, "prompt_id"), _maybe_text(data, "node"), _number(data, "value"), _number(data, "max")
    )


def _progress_state(data: Mapping[str, Any]) -> ProgressState:
    nodes = _mapping(data, "nodes")
    return ProgressState(_text(data, "prompt_id"), tuple(_node_progress(key, nodes) for key in nodes))


def _node_progress(node_id: str, nodes: Mapping[str, Any]) -> NodeProgress:
    state = _mapping(nodes, node_id)
    return NodeProgress(storable(node_id), _number(state, "value"), _number(state, "max"), _text(state, "state"))


_PARSERS: Mapping[str, Callable[[Mapping[str, Any]], Event]] = {
    "status": _status,
    "feature_flags": FeatureFlags,
    "execution_start": lambda data: ExecutionStart(_text(data, "prompt_id"), _stamp(data)),
    "execution_cached": lambda data: ExecutionCached(_text(data, "prompt_id"), _stamp(data), _texts(data, "nodes")),
    "execution_success": lambda data: ExecutionSuccess(_text(data, "prompt_id"), _stamp(data)),
    "execution_error": _execution_error,
    "execution_interrupted": _interrupted,
    "executing": lambda data: Executing(_maybe_text(data, "prompt_id"), _maybe_text(data, "node")),
    "executed": _executed,
    "progress": _progress,
    "progress_state": _progress_state,
}


# --- binary frames: a big-endian event number, then its body ---------------------------------------------------------

_PREVIEW, _TEXT, _PREVIEW_WITH_METADATA = 1, 3, 4
_PNG = b"\x89PNG\r\n\x1a\n"


def _parse_binary(frame: bytes) -> Event:
    if len(frame) < 8:
        return UnknownMessage("binary frame under 8 bytes")
    number, second = struct.unpack_from(">II", frame)
    body = frame[8:]
    if number == _PREVIEW:
        return _preview(body)
    if number == _TEXT:
        return ProgressText(*(part.decode("utf-8", "replace") for part in (body[:second], body[second:])))
    if number == _PREVIEW_WITH_METADATA:
        return _preview_with_metadata(body[:second], body[second:])
    return UnknownMessage(f"binary event {number}")


def _preview(picture: bytes, prompt_id: str | None = None, node_id: str | None = None) -> Preview:
    return Preview(len(picture), prompt_id, node_id, picture if picture.startswith(_PNG) else None)


def _preview_with_metadata(head: bytes, picture: bytes) -> Preview:
    try:
        metadata = parse_json(head)
        return _preview(picture, _maybe_text(metadata, "prompt_id"), _maybe_text(metadata, "node_id"))
    except (NotJson, AttributeError, _Misfit):
        return _preview(picture)
