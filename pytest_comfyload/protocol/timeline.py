"""One prompt's state table: events in any order and any number go in, a Timeline of its phases comes out.

The phases telescope: each begins where the one before it ended, so that they sum to `total_time` whatever the error of
the offset between the two clocks. What the server stamped keeps its length: `generation_time` always, `queue_time`
where the server says when it accepted the prompt.

Stamps are checked before they are used: sent ≤ accepted ≤ started ≤ ended ≤ seen must hold for some offset between the
clocks. Where none fits, the phases made of stamps are void (None); `total_time` is the client's own clock, and stays.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

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

__all__ = ["MAX_PICTURES", "MAX_PICTURE_BYTES", "NodeInterval", "PromptState", "Stage", "Timeline", "evenly_thinned"]

# Of one prompt's pictures that come over the WebSocket; later ones are dropped and counted.
MAX_PICTURES = 1000
MAX_PICTURE_BYTES = 256 * 2**20


class Stage(enum.IntEnum):
    """How far a prompt has come; it never goes back."""

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


T = TypeVar("T")

# The stage that an event proves, whatever came before it.
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

# Of the progress steps of one node, in an outcome.
_MOST_STEPS = 64
# Steps of all nodes of a prompt that are held while it runs; each later one takes the place of the node's last one.
_MOST_HELD = 100_000
# Nodes of a prompt of which times are kept; what expands while it runs can have thousands.
_MOST_NODES = 10_000

# How far the stamps of one prompt may contradict its own clock: they are whole milliseconds, and a clock that is being
# corrected runs up to 500 ppm too fast or too slow.
_ROUNDING = 0.002
_SLEW = 0.0005

# An "error" of this type is a node that chose not to run its followers; the prompt goes on.
_NOT_AN_ERROR = "ExecutionBlocked"


@dataclass(frozen=True, slots=True)
class NodeInterval:
    """One node at work, by the arrival of its events; `steps` are (time, progress value) pairs, at most 64 of them."""

    node_id: str
    class_type: str
    start: float
    end: float
    steps: tuple[tuple[float, float], ...] = ()

    @property
    def duration(self) -> float:
        return self.end - self.start

    @property
    def steps_per_second(self) -> float | None:
        """Steps between the first and the last progress value over their time; None where the value did not rise."""
        return _pace(self.steps)


@dataclass(frozen=True, slots=True)
class Timeline:
    """A prompt's points in time, seconds on the client's clock, in their order; one that was not reached is None.

    `void`: the server's stamps cannot be right, so that `accepted`, `started` and `ended` are not known.
    """

    send_lag: float
    sent: float
    accepted: float | None = None
    started: float | None = None
    ended: float | None = None
    delivered: float | None = None
    fetched: float | None = None
    nodes: tuple[NodeInterval, ...] = ()
    void: bool = False

    def voided(self) -> Timeline:
        """Without what the server's stamps say."""
        return replace(self, accepted=None, started=None, ended=None, void=True)

    @property
    def submit_time(self) -> float | None:
        return _between(self.sent, self.accepted)

    @property
    def queue_time(self) -> float | None:
        return _between(self.accepted, self.started)

    @property
    def generation_time(self) -> float | None:
        return _between(self.started, self.ended)

    @property
    def delivery_time(self) -> float | None:
        return _between(self.ended, self.delivered)

    @property
    def fetch_time(self) -> float | None:
        return _between(self.delivered, self.fetched)

    @property
    def total_time(self) -> float | None:
        """The sum of the six phases; None for a prompt that did not come to its end."""
        whole = _between(self.sent, self.fetched)
        return None if whole is None else self.send_lag + whole


def _pace(steps: Sequence[tuple[float, float]]) -> float | None:
    if len(steps) < 2:
        return None
    (first_time, first), (last_time, last) = steps[0], steps[-1]
    return (last - first) / (last_time - first_time) if last_time > first_time and last > first else None


def _between(begin: float | None, end: float | None) -> float | None:
    return None if begin is None or end is None else end - begin


@dataclass(slots=True)
class _NodeRecord:
    start: float
    end: float | None = None
    steps: list[tuple[float, float]] = field(default_factory=list)


class PromptState:
    """Everything known of one prompt so far. Times given to it are seconds of the client's clock."""

    def __init__(self, prompt_id: str, classes: Mapping[str, str]) -> None:
        self.prompt_id = prompt_id
        self.stage = Stage.CREATED
        self.closed = False
        self.cached: frozenset[str] = frozenset()
        self.outputs: dict[str, Mapping[str, Any]] = {}
        # By the node that was at work, what came by the socket and not as a file.
        self.pictures: list[tuple[str, bytes]] = []
        self.dropped_pictures = 0
        self._picture_bytes = 0
        self._at_work: str | None = None
        self.error: ExecutionError | ExecutionInterrupted | None = None
        self._classes = classes
        self._sent: float | None = None
        self._answered: float | None = None
        self._delivered: float | None = None
        self._create_stamp: float | None = None
        self._start_stamp: float | None = None
        self._end_stamp: float | None = None
        self._start_seen: float | None = None
        self._end_seen: float | None = None
        self.last_event_at: float | None = None
        self._nodes: dict[str, _NodeRecord] = {}
        self._held = 0

    @property
    def started_at(self) -> float | None:
        """When the first sign of execution arrived: what a timeout that counts from execution_start counts from."""
        return self._start_seen

    @property
    def steps_per_second(self) -> float | None:
        """Of the node that is at work, as far as it has come; None: it has not taken two steps."""
        paces = (_pace(record.steps) for record in self._nodes.values() if record.end is None)
        return next((pace for pace in paces if pace is not None), None)

    @property
    def sent_at(self) -> float | None:
        return self._sent

    def send(self, at: float) -> None:
        self._sent = at
        self._reach(Stage.SENT)

    def answer(self, at: float) -> None:
        self._answered = at
        self._reach(Stage.ACCEPTED)

    def see_running(self, at: float) -> None:
        """The server's queue says that it runs: its start was missed, and a timeout counts from now at the latest."""
        self._start_seen = at if self._start_seen is None else self._start_seen
        self._reach(Stage.RUNNING)

    def apply(self, event: Event, at: float) -> None:
        """Take in an event that arrived at `at`: in whatever order they come, the same events prove the same."""
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
        self._start_seen = at if self._start_seen is None else self._start_seen
        self._note(event, at)
        self._reach(proves)

    def apply_history(self, entry: HistoryEntry, at: float) -> None:
        """Take in what the server's history says: it knows when the prompt was accepted, and what the socket missed."""
        self._create_stamp = entry.create_time if self._create_stamp is None else self._create_stamp
        for event in entry.events:
            self.apply(event, at)
        if entry.outputs and not self.outputs:
            self.outputs = dict(entry.outputs)
            self._delivered = at
        self.closed = True

    def timeline(self, intended: float, offset: float | None, lag_scale: float = 1.0) -> Timeline:
        """The phases; `offset` brings server stamps onto the client's clock (`ServerClock`).

        `lag_scale` is virtual seconds per second on a simulated target: the generator's own lag stays wall time.
        """
        if self._sent is None:
            raise ValueError("a prompt that was never sent has no timeline")
        timeline = Timeline(
            send_lag=max(0.0, self._sent - intended) / lag_scale,
            sent=self._sent,
            delivered=self._delivered if self.stage is Stage.SUCCEEDED else None,
            nodes=tuple(self._intervals()),
        )
        if not self._stamps_hold():
            return timeline.voided()
        accepted, started, ended = self._placed(self._sent, self._fit(offset))
        return replace(timeline, accepted=accepted, started=started, ended=ended)

    def offset_bounds(self) -> tuple[Bound, list[Bound]] | None:
        """What the stamps prove of the offset, for `ServerClock.observe`; None where they are void or missing."""
        stamps = self._stamps()
        if self._sent is None or not stamps or not self._stamps_hold():
            return None
        return Bound(self._sent - stamps[0], self._sent), self._upper_bounds()

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
            self._start_seen = at if self._start_seen is None else self._start_seen
            self._reach(Stage.RUNNING)

    def _learn(self, event: Event) -> None:
        """What holds whenever it is told: it may still follow an end that was read from the history."""
        match event:
            case ExecutionStart(stamp=stamp) if self._start_stamp is None:
                self._start_stamp = stamp
            case ExecutionSuccess() | ExecutionError() | ExecutionInterrupted() if self._end_stamp is None:
                self._end_stamp = event.stamp
            case ExecutionCached(nodes=nodes):
                self.cached |= frozenset(nodes)
            case Executed(node=node, output=output):
                self.outputs.setdefault(node, output)

    def _note(self, event: Event, at: float) -> None:
        """What is told by its arrival, and ends with the prompt."""
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
        """The node's record, begun at `at` where there is none yet; None for one too many."""
        if node_id not in self._nodes and len(self._nodes) < _MOST_NODES:
            self._nodes[node_id] = _NodeRecord(at)
        return self._nodes.get(node_id)

    def _end(self, at: float) -> None:
        self._end_seen = at
        for record in self._nodes.values():
            record.end = at if record.end is None else record.end

    # --- what the timeline is made of ---

    def _stamps(self) -> list[float]:
        """Those that are known, in the order in which they must rise."""
        stamps = (self._create_stamp, self._start_stamp, self._end_stamp)
        return [stamp for stamp in stamps if stamp is not None]

    def _upper_bounds(self) -> list[Bound]:
        """Of the offset: nothing is seen before it happened."""
        seen = (
            (self._create_stamp, self._answered),
            (self._start_stamp, self._start_seen),
            (self._end_stamp, self._end_seen),
        )
        return [Bound(at - stamp, at) for stamp, at in seen if stamp is not None and at is not None]

    def _stamps_hold(self) -> bool:
        """Whether sent ≤ accepted ≤ started ≤ ended ≤ seen for some offset of the clocks; no stamp may be missing."""
        stamps, highs = self._stamps(), self._upper_bounds()
        if self.stage.over and (self._start_stamp is None or self._end_stamp is None):
            return False
        if stamps != sorted(stamps):
            return False
        if self._sent is None or not highs:
            return True
        high = min(highs)
        tolerance = _ROUNDING + _SLEW * max(0.0, high.at - self._sent)
        return self._sent - stamps[0] <= high.offset + tolerance

    def _fit(self, offset: float | None) -> float | None:
        """The offset, moved as little as this prompt's own order of things demands."""
        stamps, highs = self._stamps(), self._upper_bounds()
        if not highs or self._sent is None:
            return offset
        high = min(highs).offset
        return high if offset is None else min(max(offset, self._sent - stamps[0]), high)

    def _placed(self, sent: float, offset: float | None) -> tuple[float | None, float | None, float | None]:
        """Accepted, started and ended on the client's clock, in their order and not after they were seen."""
        # A stamp near the year 2026 is a float to 2.4e-7 s: what is rounded stays in its order.
        latest = math.inf if self._end_seen is None else self._end_seen
        accepted = self._accepted(sent, offset)
        accepted = None if accepted is None else min(accepted, latest)
        if self._start_stamp is None or offset is None:
            return accepted, None, None
        started = min(max(sent if accepted is None else accepted, self._start_stamp + offset), latest)
        if self._end_stamp is None:
            return accepted, started, None
        return accepted, started, min(started + (self._end_stamp - self._start_stamp), latest)

    def _accepted(self, sent: float, offset: float | None) -> float | None:
        """`create_time`; where the server has none, the earlier of the answer and the start of execution."""
        stamp = self._start_stamp if self._create_stamp is None else self._create_stamp
        placed = None if stamp is None or offset is None else stamp + offset
        candidates = [time for time in (placed, self._answered) if time is not None]
        return max(sent, min(candidates)) if candidates else None

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


def evenly_thinned(values: Sequence[T], most: int) -> tuple[T, ...]:
    """The first, the last, and evenly chosen ones between: an outcome is kept as long as its run."""
    surplus = len(values) - 1
    if surplus < most:
        return tuple(values)
    return tuple(values[round(index * surplus / (most - 1))] for index in range(most))
