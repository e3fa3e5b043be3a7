"""Data about an ended prompt from its history entry: how and when it ended, and the work it did."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from pytest_comfyload.protocol.bodies import HistoryEntry
from pytest_comfyload.protocol.events import (
    ExecutionCached,
    ExecutionError,
    ExecutionInterrupted,
    ExecutionStart,
    ExecutionSuccess,
)
from pytest_comfyload.protocol.oom import is_oom
from pytest_comfyload.protocol.outputs import is_picture, output_files
from pytest_comfyload.result.outcome import CacheClass, cache_class
from pytest_comfyload.result.output_files import results_of
from pytest_comfyload.workflow.graph import NodeGraph

__all__ = ["STATUSES", "EndedPrompt", "ended_prompt"]

# All ways in which an executed prompt can end.
STATUSES = ("success", "error", "oom", "interrupted")
# Maximum for one sampler: KSampler's own limit.
MOST_STEPS = 10_000


@dataclass(frozen=True, slots=True)
class EndedPrompt:
    """A prompt that has ended; `status` is one of `STATUSES`.

    Times are in seconds of the server's clock, None where it does not report them. `cached`: all of its work came from
    the server's cache. `steps`: sampling steps requested by the nodes that ran. `images`: pictures among its results.
    """

    prompt_id: str
    status: str
    number: float | None = None
    created: float | None = None
    started: float | None = None
    ended: float | None = None
    cached: bool = False
    steps: int = 0
    images: int = 0

    @property
    def queue_wait(self) -> float | None:
        """Seconds from acceptance to the start of execution; None on servers older than 0.3.69."""
        return _between(self.created, self.started)

    @property
    def duration(self) -> float | None:
        """Seconds of execution."""
        return _between(self.started, self.ended)


def ended_prompt(entry: HistoryEntry) -> EndedPrompt:
    """Read a history entry. Even where it is malformed, the prompt has ended."""
    started = ended = None
    status, cached = "success", frozenset[str]()
    for event in entry.events:
        match event:
            case ExecutionStart(stamp=stamp):
                started = stamp
            case ExecutionCached(nodes=nodes):
                cached |= frozenset(nodes)
            case ExecutionSuccess(stamp=stamp):
                ended = stamp
            case ExecutionInterrupted(stamp=stamp):
                status, ended = "interrupted", stamp
            case ExecutionError(stamp=stamp):
                oom = is_oom(event.exception_type, event.exception_message)
                status, ended = "oom" if oom else "error", stamp
    needed = NodeGraph(entry.graph).upstream(entry.targets) & entry.graph.keys()
    succeeded = status == "success"
    return EndedPrompt(
        entry.prompt_id,
        status,
        entry.number,
        entry.create_time,
        started,
        ended,
        succeeded and cache_class(entry.graph, cached, frozenset(), needed) is CacheClass.FULLY,
        _steps(entry, needed - cached) if succeeded else 0,
        _images(entry) if succeeded else 0,
    )


def _steps(entry: HistoryEntry, ran: Set[str]) -> int:
    """Sum the `steps` inputs that are plain numbers; those that another node computes are unknown."""
    asked = (entry.graph[node_id]["inputs"].get("steps") for node_id in ran)
    return sum(steps for steps in asked if type(steps) is int and 0 < steps <= MOST_STEPS)


def _images(entry: HistoryEntry) -> int:
    pictures = [file for file in output_files(entry.outputs) if is_picture(file.filename)]
    return len(results_of(pictures))


def _between(begin: float | None, end: float | None) -> float | None:
    """Return the difference; None if either is unknown or the clock was set back between them."""
    return end - begin if begin is not None and end is not None and begin <= end else None
