"""Events that a server sends about its queue and its prompts, as frozen values.

Stamps are from the server's clock, in seconds since the epoch (the wire has milliseconds); None if not a number.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    "Preview",
    "Progress",
    "ProgressState",
    "ProgressText",
    "Status",
    "UnknownMessage",
]


@dataclass(frozen=True, slots=True)
class Status:
    """The length of the queue, sent to every socket; `sid` is only in the first message."""

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
    """An execution failed. The node's `current_inputs` are not kept: they may contain secrets."""

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
    """A node starts; `node` None: the prompt has finished and its history is safe to read."""

    prompt_id: str | None
    node: str | None


@dataclass(frozen=True, slots=True)
class Executed:
    """A node with outputs for the user has finished, from the cache or not."""

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
    """Progress of every node that has started; its `state` is pending, running, finished or error."""

    prompt_id: str
    nodes: tuple[NodeProgress, ...]


@dataclass(frozen=True, slots=True)
class Preview:
    """A picture in a binary frame; only newer servers report its prompt and node, if a feature flag requests it.

    `png`: the bytes of a PNG. Previews are JPEGs; a PNG is what SaveImageWebsocket delivers in place of a file.
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
    """A frame outside the protocol: a custom node's own message, a newer server's, or garbage."""

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
