"""Parsing of WebSocket frames into frozen events; an unknown frame becomes `UnknownMessage`, never an exception."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from pytest_comfyload.protocol.events import (
    Event,
    Executed,
    Executing,
    ExecutionCached,
    ExecutionError,
    ExecutionInterrupted,
    ExecutionStart,
    ExecutionSuccess,
    FeatureFlags,
    NodeProgress,
    Preview,
    Progress,
    ProgressState,
    ProgressText,
    Status,
    UnknownMessage,
)
from pytest_comfyload.protocol.json_values import NotJson, finite, milliseconds, parse_json, storable

__all__ = ["STATUS_BEGIN", "STATUS_END", "parse_event", "parse_frame"]

# What surrounds the number of prompts in a status message, exactly as ComfyUI writes it: nearly all messages of a busy
# server. A status message in another form is parsed like any other message.
STATUS_BEGIN = b'{"type": "status", "data": {"status": {"exec_info": {"queue_remaining": '
STATUS_END = b"}}}}"


class _Misfit(Exception):
    """A field is missing or of the wrong type."""


def parse_frame(frame: str | bytes) -> Event:
    """Parse one WebSocket frame, text (str) or binary (bytes), into an event."""
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
    """Parse one message by its type and data: from the socket, or from `status.messages` in the history."""
    parser = _PARSERS.get(kind) if isinstance(kind, str) else None
    if parser is None:
        return UnknownMessage(f"type {kind[:40]!r}" if isinstance(kind, str) else "no type")
    if not isinstance(data, dict):
        return UnknownMessage(f"{kind} without data")
    try:
        return parser(data)
    except _Misfit as misfit:
        return UnknownMessage(f"{kind}: {misfit}")


# --- fields ----------------------------------------------------------------------------------------------------------


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
    """Return the stamp, or None: an event counts without it, since a prompt must end even if its stamp is unusable."""
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
