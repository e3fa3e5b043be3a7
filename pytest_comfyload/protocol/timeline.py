"""The timeline of a prompt: its points in time, the phases between them, and the nodes that ran.

The phases telescope: each begins where the previous one ended, so that they sum to `total_time` regardless of the error
of the offset between the two clocks. Durations that the server stamped are preserved: `generation_time` always,
`queue_time` if the server reports when it accepted the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

__all__ = ["NodeInterval", "Timeline", "evenly_thinned", "pace_of"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NodeInterval:
    """One run of a node, by the arrival of its events; `steps` are (time, progress value) pairs, at most 64 of them."""

    node_id: str
    class_type: str
    start: float
    end: float
    steps: tuple[tuple[float, float], ...] = ()

    @property
    def duration(self) -> float:
        return self.end - self.start

    def shifted(self, seconds: float) -> NodeInterval:
        steps = tuple((at + seconds, value) for at, value in self.steps)
        return replace(self, start=self.start + seconds, end=self.end + seconds, steps=steps)

    @property
    def steps_per_second(self) -> float | None:
        """Rate of steps between the first and the last progress value; None if the value did not increase."""
        return pace_of(self.steps)


@dataclass(frozen=True, slots=True)
class Timeline:
    """A prompt's points in time, in order, in seconds of the client's clock; None: not reached.

    `void`: the server's stamps cannot be right, so that `accepted`, `started` and `ended` are unknown.
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
        """Return a copy without the points that come from the server's stamps."""
        return replace(self, accepted=None, started=None, ended=None, void=True)

    def shifted(self, seconds: float) -> Timeline:
        """Return a copy on a clock that is `seconds` ahead."""
        points = ("sent", "accepted", "started", "ended", "delivered", "fetched")
        moved = {name: at + seconds for name in points if (at := getattr(self, name)) is not None}
        return replace(self, nodes=tuple(each.shifted(seconds) for each in self.nodes), **moved)

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
        """The sum of the six phases; None for a prompt that did not reach all of them."""
        whole = _between(self.sent, self.fetched)
        return None if whole is None else self.send_lag + whole


def pace_of(steps: Sequence[tuple[float, float]]) -> float | None:
    if len(steps) < 2:
        return None
    (first_time, first), (last_time, last) = steps[0], steps[-1]
    return (last - first) / (last_time - first_time) if last_time > first_time and last > first else None


def _between(begin: float | None, end: float | None) -> float | None:
    return None if begin is None or end is None else end - begin


def evenly_thinned(values: Sequence[T], most: int) -> tuple[T, ...]:
    """Return the first, the last, and evenly spaced values between, since an outcome is kept as long as its run."""
    surplus = len(values) - 1
    if surplus < most:
        return tuple(values)
    return tuple(values[round(index * surplus / (most - 1))] for index in range(most))
