"""Parsing of HTTP bodies into frozen values; a body that is not ComfyUI's raises `NotComfyUI` with the route's name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_comfyload.errors import NotComfyUI
from pytest_comfyload.protocol.events import Event
from pytest_comfyload.protocol.json_values import (
    as_dict,
    as_list,
    finite,
    json_object,
    milliseconds,
    storable,
    text_of,
)
from pytest_comfyload.protocol.messages import parse_event

__all__ = [
    "HistoryEntry",
    "LogEntry",
    "PromptAnswer",
    "QueueSnapshot",
    "Rejection",
    "parse_guessed_times",
    "parse_history_entry",
    "parse_history_page",
    "parse_job_count",
    "parse_log",
    "parse_object_info",
    "parse_prompt_answer",
    "parse_queue",
    "parse_queue_remaining",
    "parse_queued",
    "parse_rejection",
    "refused_inputs",
]


# Faults of a rejected prompt that its sentence lists.
MOST_FAULTS = 20


@dataclass(frozen=True, slots=True)
class PromptAnswer:
    """A 200 response to POST /prompt; non-empty `node_errors`: some outputs were dropped, the rest runs."""

    prompt_id: str
    number: float
    node_errors: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rejection:
    """A 400 response to POST /prompt."""

    type: str
    message: str
    details: str
    node_errors: Mapping[str, Any]

    def sentence(self) -> str:
        """Return what was wrong, node by node, in one line."""
        faults = [fault for node_id, errors in self.node_errors.items() for fault in _faults(node_id, errors)]
        if faults:
            more = f"; and {len(faults) - MOST_FAULTS} more" if len(faults) > MOST_FAULTS else ""
            return storable(f"{self.message}: {'; '.join(faults[:MOST_FAULTS])}{more}")
        return " ".join(filter(None, (self.message, self.details)))


@dataclass(frozen=True, slots=True)
class QueueSnapshot:
    """Prompt ids in the queue; `pending` in the order in which they will run.

    `runs`: the load run that sent a prompt, by prompt id, for those that have a run's tag.
    """

    running: tuple[str, ...]
    pending: tuple[str, ...]
    runs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """The server's history entry of a finished prompt; `events` are the stamped ones.

    `number`: its position in the order of submission since the server's start, unless the sender chose another. `graph`
    is what was sent, except nodes without a class or inputs; `targets` are the output nodes that were executed.
    """

    prompt_id: str
    outputs: Mapping[str, Mapping[str, Any]]
    events: tuple[Event, ...]
    create_time: float | None
    number: float | None = None
    graph: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    targets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One entry of the server's log; its stamp is text that sorts by time."""

    stamp: str
    message: str


def parse_prompt_answer(body: object) -> PromptAnswer:
    """Parse a 200 response to POST /prompt. Raises: NotComfyUI."""
    answer = json_object(body, "POST /prompt")
    prompt_id, number = answer.get("prompt_id"), finite(answer.get("number"))
    if not isinstance(prompt_id, str) or number is None:
        raise NotComfyUI("POST /prompt answered without a prompt_id and a number")
    return PromptAnswer(prompt_id, number, _node_errors(answer))


def parse_rejection(body: object) -> Rejection | None:
    """Parse a 400 response to POST /prompt; None if it is not ComfyUI's own (but a proxy's or a custom node's)."""
    if not isinstance(body, dict):
        return None
    error = body.get("error")
    if not isinstance(error, dict):
        return Rejection("", storable(error), "", _node_errors(body)) if isinstance(error, str) else None
    kind, message, details = (text_of(error.get(key)) for key in ("type", "message", "details"))
    return Rejection(kind, message, details, _node_errors(body))


def refused_inputs(node_errors: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield the node, the input (empty if the fault is not about one) and the server's message of each fault."""
    for node_id, errors in node_errors.items():
        words = _faults(node_id, errors)
        for error, said in zip(as_list(as_dict(errors).get("errors")), words, strict=True):
            yield str(node_id), text_of(as_dict(as_dict(error).get("extra_info")).get("input_name")), storable(said)


def parse_queue(body: object) -> QueueSnapshot:
    """Parse the queue, sorting pending prompts by number: the server sends them in heap order. Raises: NotComfyUI."""
    queue = json_object(body, "GET /queue")
    running = _queue_items(queue.get("queue_running"))
    pending = sorted(_queue_items(queue.get("queue_pending")))
    items = (*running, *pending)
    return QueueSnapshot(
        tuple(prompt_id for _, prompt_id, _ in running),
        tuple(prompt_id for _, prompt_id, _ in pending),
        {prompt_id: run for _, prompt_id, run in items if run},
    )


def parse_queued(body: object) -> tuple[HistoryEntry, ...]:
    """Return the running and pending prompts as history entries without outputs and events. Raises: NotComfyUI."""
    queue = json_object(body, "GET /queue")
    items = (*as_list(queue.get("queue_running")), *as_list(queue.get("queue_pending")))
    return tuple(
        _history_entry(item[1], {"prompt": item})
        for item in items
        if isinstance(item, list) and len(item) > 1 and isinstance(item[1], str)
    )


def parse_history_entry(body: object, prompt_id: str) -> HistoryEntry | None:
    """Return the entry of `prompt_id`; None while the server has none. Raises: NotComfyUI."""
    entry = json_object(body, "GET /history").get(prompt_id)
    return _history_entry(prompt_id, entry) if isinstance(entry, dict) else None


def parse_history_page(body: object) -> tuple[HistoryEntry, ...]:
    """Return the entries of one page of the history in its order, the newest last. Raises: NotComfyUI."""
    entries = json_object(body, "GET /history").items()
    return tuple(_history_entry(prompt_id, entry) for prompt_id, entry in entries if isinstance(entry, dict))


def parse_queue_remaining(body: object) -> int:
    """Return the number of pending and running prompts, from GET /prompt. Raises: NotComfyUI."""
    remaining = finite(as_dict(json_object(body, "GET /prompt").get("exec_info")).get("queue_remaining"))
    if remaining is None or remaining < 0:
        raise NotComfyUI("GET /prompt answered without a queue_remaining")
    return int(remaining)


def parse_job_count(body: object) -> int:
    """Return how many jobs GET /api/jobs found in total, regardless of the page it shows. Raises: NotComfyUI."""
    total = finite(as_dict(json_object(body, "GET /api/jobs").get("pagination")).get("total"))
    if total is None or total < 0:
        raise NotComfyUI("GET /api/jobs answered without a total")
    return int(total)


def parse_object_info(body: object) -> dict[str, dict[str, Any]]:
    """Return the description of each node class; a class whose description is not an object is left out.

    The declarations of inputs are as the nodes wrote them, and may have any shape.
    """
    return {storable(name): info for name, info in as_dict(body).items() if isinstance(info, dict)}


def parse_guessed_times(body: object) -> tuple[str, ...]:
    """Return the node classes whose times a simulator guesses, from its response to an announced workflow."""
    names = as_dict(body).get("guessed_times")
    return tuple(storable(name) for name in as_list(names) if isinstance(name, str))


def parse_log(body: object) -> tuple[LogEntry, ...]:
    """Return the last entries of the server's log. Raises: NotComfyUI."""
    entries = as_list(json_object(body, "GET /internal/logs/raw").get("entries"))
    return tuple(LogEntry(str(as_dict(entry).get("t")), str(as_dict(entry).get("m"))) for entry in entries)


# --- fields ----------------------------------------------------------------------------------------------------------


def _node_errors(body: Mapping[str, Any]) -> Mapping[str, Any]:
    # The real server sends a list here if there are no errors.
    return as_dict(body.get("node_errors"))


def _faults(node_id: str, errors: object) -> Iterator[str]:
    for error in as_list(as_dict(errors).get("errors")):
        fault = as_dict(error)
        yield f"node {node_id} ({as_dict(errors).get('class_type')}): {fault.get('message')} ({fault.get('details')})"


def _queue_items(items: object) -> list[tuple[float, str, str]]:
    """Return the number, the prompt id and the run's tag (empty without one) of each item."""
    return [
        (number, item[1], _run_tag(item))
        for item in as_list(items)
        if isinstance(item, list) and len(item) > 1 and isinstance(item[1], str)
        if (number := finite(item[0])) is not None
    ]


def _run_tag(item: Sequence[Any]) -> str:
    run = as_dict(as_dict(item[3]).get("comfyload")).get("run") if len(item) > 3 else None
    return run if isinstance(run, str) else ""


def _history_events(messages: object) -> Iterator[Event]:
    for message in as_list(messages):
        if isinstance(message, list) and len(message) == 2:
            yield parse_event(*message)


def _history_entry(prompt_id: str, entry: Mapping[str, Any]) -> HistoryEntry:
    number, _, graph, extra_data, targets = (*as_list(entry.get("prompt"))[:5], *(None,) * 5)[:5]
    return HistoryEntry(
        prompt_id,
        {node: output for node, output in as_dict(entry.get("outputs")).items() if isinstance(output, dict)},
        tuple(_history_events(as_dict(entry.get("status")).get("messages"))),
        milliseconds(as_dict(extra_data).get("create_time")),
        finite(number),
        {node_id: node for node_id, node in as_dict(graph).items() if _is_node(node)},
        tuple(target for target in as_list(targets) if isinstance(target, str)),
    )


def _is_node(node: object) -> bool:
    return isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)
