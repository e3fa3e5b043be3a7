"""The outcomes of a run as columns: each value is read once from all outcomes, however many metrics use it.

Otherwise some thirty metrics would each iterate over up to 100,000 outcomes.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from operator import attrgetter
from typing import NamedTuple, cast

from pytest_comfyload.protocol.timeline import NodeInterval, Timeline
from pytest_comfyload.result.generation_parts import is_loader, parts_of, weights_time
from pytest_comfyload.result.outcome import Outcome, OutcomeStatus

__all__ = ["Columns", "NodeColumns", "Timed", "Work", "collector_paused"]

# The timeline points at which each phase begins and ends.
_ENDS = {
    "submit_time": ("sent", "accepted"),
    "queue_time": ("accepted", "started"),
    "generation_time": ("started", "ended"),
    "delivery_time": ("ended", "delivered"),
    "fetch_time": ("delivered", "fetched"),
}
_UNSENT = Timeline(send_lag=cast("float", None), sent=cast("float", None))


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the garbage collector: one pass over 100,000 outcomes takes as long as computing a metric from them."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            # Move new objects to the oldest generation, or the next allocation would traverse all of them.
            gc.freeze()
            gc.unfreeze()
        gc.enable()


class Timed(NamedTuple):
    """Values, and the intended start times of the prompts that they belong to."""

    times: list[float]
    values: list[float]

    def add(self, times: list[float], values: list[float]) -> None:
        self.times.extend(times)
        self.values.extend(values)


class NodeColumns(NamedTuple):
    """Seconds and steps per second of nodes by class, and seconds of prompts by part of the generation."""

    node_time: dict[str, Timed]
    steps_per_second: dict[str, Timed]
    parts: dict[str, Timed]

    def add(self, times: list[float], rows: Sequence[Sequence[NodeInterval]]) -> None:
        """Add the nodes of prompts with these intended start times; all of them ran nodes of the same classes."""
        loading, spent = [0.0] * len(times), dict[str, list[float]]()
        for nodes in zip(*rows, strict=True):
            name, ready = nodes[0].class_type, [0.0] * len(times)
            durations = [node.end - node.start for node in nodes]
            _in(self.node_time, name).add(times, durations)
            if any(node.steps for node in nodes):
                rates = [(time, node.steps_per_second) for time, node in zip(times, nodes, strict=True)]
                paced = [(time, rate) for time, rate in rates if rate is not None]
                if paced:
                    _in(self.steps_per_second, name).add(*map(list, zip(*paced, strict=True)))
                ready = [weights_time(node) for node in nodes]
            loading = _sums(loading, durations if is_loader(name) else ready)
            for part in parts_of(name):
                seconds = (
                    [a - b for a, b in zip(durations, ready, strict=True)] if part == "sampling_time" else durations
                )
                spent[part] = _sums(spent[part], seconds) if part in spent else seconds
        for part, seconds in {"model_load_time": loading, **spent}.items():
            _in(self.parts, part).add(times, seconds)


class Work(NamedTuple):
    """The work that a prompt caused: the ids and classes of the nodes that ran, and the classes that were cached."""

    workflow: str
    nodes: tuple[tuple[str, str], ...]
    cached: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the nodes that ran."""
        return tuple(class_type for _, class_type in self.nodes)


class Columns:
    """The columns of some outcomes, in their order; None if an outcome does not have the value."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self.outcomes = outcomes
        self._lines = [outcome.timeline or _UNSENT for outcome in outcomes]
        self._read: dict[str, list[float | None]] = {}

    def among(self, outcomes: Sequence[Outcome]) -> Columns:
        """Return the columns of some of the outcomes."""
        return self if len(outcomes) == len(self.outcomes) else Columns(outcomes)

    @cached_property
    def intended(self) -> list[float]:
        return [outcome.intended for outcome in self.outcomes]

    @cached_property
    def succeeded(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.status is OutcomeStatus.SUCCESS]

    def __getitem__(self, name: str) -> list[float | None]:
        """Return the column of a phase, `total_time`, `generator_lag` or a point of the timelines."""
        if name not in self._read:
            self._read[name] = self._column(name)
        return self._read[name]

    def timed(self, name: str) -> Timed:
        """Return the values that are not None, with their times."""
        column = self[name]
        values = [value for value in column if value is not None]
        if len(values) == len(column):
            return Timed(self.intended, values)
        return Timed([time for time, value in zip(self.intended, column, strict=True) if value is not None], values)

    def _column(self, name: str) -> list[float | None]:
        if name == "generator_lag":
            return list(map(attrgetter(name), self.outcomes))
        if name == "total_time":
            whole = _between(self["sent"], self["fetched"])
            lags = cast("list[float]", self["send_lag"])
            return [None if rest is None else lag + rest for lag, rest in zip(lags, whole, strict=True)]
        if name in _ENDS:
            begin, end = _ENDS[name]
            return _between(self[begin], self[end])
        return list(map(attrgetter(name), self._lines))

    @cached_property
    def work(self) -> Mapping[Work, int]:
        """Number of prompts for each kind of work, in the order of first occurrence."""
        return {work: len(places) for work, places in self._places.items()}

    @cached_property
    def nodes(self) -> NodeColumns:
        """The columns of the nodes that ran; parts of a generation only for prompts whose nodes are known."""
        found = NodeColumns({}, {}, {})
        for work, places in self._places.items():
            if work.nodes or work.cached:
                found.add([self.intended[place] for place in places], [self._lines[place].nodes for place in places])
        return found

    @cached_property
    def _places(self) -> Mapping[Work, list[int]]:
        """Indexes of the outcomes that caused each kind of work."""
        places: dict[tuple[str, tuple[tuple[str, str], ...], tuple[str, ...]], list[int]] = {}
        for place, (outcome, line) in enumerate(zip(self.outcomes, self._lines, strict=True)):
            nodes = tuple([(node.node_id, node.class_type) for node in line.nodes])
            places.setdefault((outcome.workflow, nodes, outcome.cached), []).append(place)
        return {Work(*work): of for work, of in places.items()}


def _sums(one: Iterable[float], other: Iterable[float]) -> list[float]:
    return [a + b for a, b in zip(one, other, strict=True)]


def _in(series: dict[str, Timed], name: str) -> Timed:
    timed = series.get(name)
    if timed is None:
        timed = series[name] = Timed([], [])
    return timed


def _between(begin: Iterable[float | None], end: Iterable[float | None]) -> list[float | None]:
    return [None if a is None or b is None else b - a for a, b in zip(begin, end, strict=True)]
