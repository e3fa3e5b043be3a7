"""State of one prompt, which takes events in any order and number and yields a Timeline of its phases."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_comfyload.protocol.bodies import HistoryEntry
from pytest_comfyload.protocol.events import (
    Event,
    Executed,
    Executing,
    ExecutionCached,
    ExecutionError,
    ExecutionInterrupted,
    ExecutionStart,
    ExecutionSuccess,
    Preview,
    Progress,
    ProgressState,
)
from pytest_comfyload.protocol.server_clock import Bound
from pytest_comfyload.protocol.stamps import Stamps
from pytest_comfyload.protocol.timeline import NodeInterval, Timeline, evenly_thinned, pace_of

__all__ = ["MAX_PICTURES", "MAX_PICTURE_BYTES", "PromptState", "Stage"]

# Limits for the pictures of one prompt that arrive over the WebSocket; further ones are dropped and counted.
MAX_PICTURES = 1000
MAX_PICTURE_BYTES = 256 * 2**20


class Stage(enum.IntEnum):
    """How far a prompt has come; it never moves backwards."""

    CREATED = 0
    SENT = 1
    ACCEPTED = 2
    RUNNING = 3
    INTERRUPTED = 4
    FAILED = 5
    SUCCEEDED = 6

    @property
    def over(self) -> bool:
        return self >= Stage.INTERRUPTED


# The stage that an event proves, regardless of what came before it.
_PROVES: Mapping[type[Event], Stage] = {
    ExecutionStart: Stage.RUNNING,
    ExecutionCached: Stage.RUNNING,
    ProgressState: Stage.RUNNING,
    Progress: Stage.RUNNING,
    Executed: Stage.RUNNING,
    ExecutionInterrupted: Stage.INTERRUPTED,
    ExecutionError: Stage.FAILED,
    ExecutionSuccess: Stage.SUCCEEDED,
}

# Progress steps of one node that an outcome keeps.
_MOST_STEPS = 64
# Steps of all nodes of a prompt that are kept while it runs; each further one replaces the node's last one.
_MOST_HELD = 100_000
# Nodes of a prompt whose times are kept; a workflow that expands while it runs can have thousands.
_MOST_NODES = 10_000

# An "error" of this type means that a node chose not to run the nodes after it; the prompt continues.
_NOT_AN_ERROR = "ExecutionBlocked"


@dataclass(slots=True)
class _NodeRecord:
    start: float
    end: float | None = None
    steps: list[tuple[float, float]] = field(default_factory=list)


class PromptState:
    """Everything known about one prompt so far; the times passed to it are seconds of the client's clock."""

    def __init__(self, prompt_id: str, classes: Mapping[str, str]) -> None:
        self.prompt_id = prompt_id
        self.stage = Stage.CREATED
        self.closed = False
        self.cached: frozenset[str] = frozenset()
        self.outputs: dict[str, Mapping[str, Any]] = {}
        # Outputs that arrived over the WebSocket instead of as files, each with the node that was running.
        self.pictures: list[tuple[str, bytes]] = []
        self.dropped_pictures = 0
        self._picture_bytes = 0
        self._at_work: str | None = None
        self.error: ExecutionError | ExecutionInterrupted | None = None
        self._classes = classes
        self._stamps = Stamps()
        self._delivered: float | None = None
        self.last_event_at: float | None = None
        self._nodes: dict[str, _NodeRecord] = {}
        self._held = 0

    @property
    def started_at(self) -> float | None:
        """When the first sign of execution arrived, from which a timeout that starts at execution_start counts."""
        return self._stamps.start_seen

    @property
    def steps_per_second(self) -> float | None:
        """The steps per second of the running node so far; None before its second step."""
        paces = (pace_of(record.steps) for record in self._nodes.values() if record.end is None)
        return next((pace for pace in paces if pace is not None), None)

    @property
    def sent_at(self) -> float | None:
        return self._stamps.sent

    def send(self, at: float) -> None:
        self._stamps.sent = at
        self._reach(Stage.SENT)

    def answer(self, at: float) -> None:
        self._stamps.answered = at
        self._reach(Stage.ACCEPTED)

    def see_running(self, at: float) -> None:
        """Record that the queue lists the prompt as running; if its start was missed, a timeout counts from now."""
        self._stamps.start_seen = at if self._stamps.start_seen is None else self._stamps.start_seen
        self._reach(Stage.RUNNING)

    def apply(self, event: Event, at: float) -> None:
        """Apply an event that arrived at `at`; the same events prove the same, regardless of their order."""
        self.last_event_at = at
        if isinstance(event, Executing):
            self._executing(event, at)
            return
        if isinstance(event, Preview):
            self._receive(event)
            return
        proves = _PROVES.get(type(event))
        if proves is None or (isinstance(event, ExecutionError) and event.exception_type == _NOT_AN_ERROR):
            return
        self._learn(event)
        if self.stage.over:
            return
        self._stamps.start_seen = at if self._stamps.start_seen is None else self._stamps.start_seen
        self._note(event, at)
        self._reach(proves)

    def apply_history(self, entry: HistoryEntry, at: float) -> None:
        """Apply the server's history entry: it has the time of acceptance, and the events that the socket missed."""
        self._stamps.create = entry.create_time if self._stamps.create is None else self._stamps.create
        for event in entry.events:
            self.apply(event, at)
        if entry.outputs and not self.outputs:
            self.outputs = dict(entry.outputs)
            self._delivered = at
        self.closed = True

    def timeline(self, intended: float, offset: float | None, lag_scale: float = 1.0) -> Timeline:
        """Return the phases; `offset` converts server stamps to the client's clock (`ServerClock`).

        `lag_scale` is virtual seconds per second on a simulated target: the generator's own lag stays in wall time.
        Raises ValueError for a prompt that was never sent.
        """
        if self._stamps.sent is None:
            raise ValueError("a prompt that was never sent has no timeline")
        hold = self._stamps.hold(over=self.stage.over)
        accepted, started, ended = self._stamps.placed(self._stamps.sent, offset) if hold else (None, None, None)
        return Timeline(
            send_lag=max(0.0, self._stamps.sent - intended) / lag_scale,
            sent=self._stamps.sent,
            accepted=accepted,
            started=started,
            ended=ended,
            delivered=self._delivered if self.stage is Stage.SUCCEEDED else None,
            nodes=tuple(self._intervals()),
            void=not hold,
        )

    def offset_bounds(self) -> tuple[Bound, list[Bound]] | None:
        """Return the bounds on the offset that the stamps prove, for `ServerClock.observe`.

        None if the stamps are void or missing.
        """
        return self._stamps.bounds(over=self.stage.over)

    # --- what events change ---

    def _reach(self, stage: Stage) -> None:
        self.stage = max(self.stage, stage)

    def _receive(self, event: Preview) -> None:
        node = event.node_id or self._at_work
        if event.png is None or node is None or self.stage.over:
            return
        if len(self.pictures) == MAX_PICTURES or self._picture_bytes + len(event.png) > MAX_PICTURE_BYTES:
            self.dropped_pictures += 1
            return
        self._picture_bytes += len(event.png)
        self.pictures.append((node, event.png))

    def _executing(self, event: Executing, at: float) -> None:
        self._at_work = event.node
        if event.node is None:
            self.closed = True
        elif not self.stage.over:
            self._record(event.node, at)
            self._stamps.start_seen = at if self._stamps.start_seen is None else self._stamps.start_seen
            self._reach(Stage.RUNNING)

    def _learn(self, event: Event) -> None:
        """Record facts that hold whenever they arrive, even after an end that was read from the history."""
        match event:
            case ExecutionStart(stamp=stamp) if self._stamps.start is None:
                self._stamps.start = stamp
            case ExecutionSuccess() | ExecutionError() | ExecutionInterrupted() if self._stamps.end is None:
                self._stamps.end = event.stamp
            case ExecutionCached(nodes=nodes):
                self.cached |= frozenset(nodes)
            case Executed(node=node, output=output):
                self.outputs.setdefault(node, output)

    def _note(self, event: Event, at: float) -> None:
        """Record what depends on the time of arrival; it does not apply after the prompt has ended."""
        match event:
            case ProgressState(nodes=states):
                for state in states:
                    self._node_state(state.node_id, state.state, at)
            case Progress(node=str(node), value=value):
                self._step(node, value, at)
            case ExecutionSuccess():
                self._end(at)
                self._delivered = at
            case ExecutionError() | ExecutionInterrupted():
                self.error = event
                self._end(at)

    def _node_state(self, node_id: str, state: str, at: float) -> None:
        record = self._record(node_id, at)
        if state == "finished" and record is not None and record.end is None:
            record.end = at

    def _step(self, node_id: str, value: float, at: float) -> None:
        record = self._record(node_id, at)
        if record is None:
            return
        if self._held < _MOST_HELD:
            self._held += 1
            record.steps.append((at, value))
        elif record.steps:
            record.steps[-1] = (at, value)

    def _record(self, node_id: str, at: float) -> _NodeRecord | None:
        """Return the node's record, started at `at` if there is none yet; None if there are too many nodes."""
        if node_id not in self._nodes and len(self._nodes) < _MOST_NODES:
            self._nodes[node_id] = _NodeRecord(at)
        return self._nodes.get(node_id)

    def _end(self, at: float) -> None:
        self._stamps.end_seen = at
        for record in self._nodes.values():
            record.end = at if record.end is None else record.end

    # --- the parts of the timeline ---

    def _intervals(self) -> list[NodeInterval]:
        # A cached node with outputs is announced as finished too; it never ran.
        return [
            NodeInterval(
                node_id,
                self._classes.get(node_id, "unknown"),
                record.start,
                record.end,
                evenly_thinned(record.steps, _MOST_STEPS),
            )
            for node_id, record in self._nodes.items()
            if record.end is not None and node_id not in self.cached
        ]
