"""The offset between the clocks of a server and the client, bounded from both sides regardless of any delays.

What a server stamps happens after the client sent the prompt and before the client sees the event. So each prompt
bounds the offset (client clock minus server clock) from below by (sent − stamp) and from above by (arrival − stamp).
Delays of network, server or generator only widen these bounds; they never make them contradict each other. Two bounds
that do contradict each other prove that the server's clock was set in between, or that its stamps are wrong.

The offset in use is the least (arrival − stamp) of the last minute: the true offset plus the shortest delay (measured
on a real server: 0.4 to 1.2 ms). The moving window allows for clocks that drift.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Bound", "ClockStep", "ServerClock"]

WINDOW = 60.0
# The extremes are kept for each second of the window, and those of the whole window are recomputed once a second or
# with each prompt, whichever is rarer, so that observing costs the same at any rate of prompts.
BUCKET = 1.0
# Bounds that contradict each other by less are attributed to clocks that are being slewed.
STEP = 0.05


class Bound(NamedTuple):
    """A bound on the offset, and when (client clock) it was observed."""

    offset: float
    at: float


@dataclass(frozen=True, slots=True)
class ClockStep:
    """The server's clock was set by at least `shift` seconds, at some time from `begin` to `end` (client clock)."""

    begin: float
    end: float
    shift: float

    def within(self, begin: float, end: float) -> bool:
        """Return whether the step may have happened between these times."""
        return self.begin < end and begin < self.end


_NO_LOW, _NO_HIGH = Bound(-math.inf, 0.0), Bound(math.inf, 0.0)


@dataclass(slots=True)
class _Bucket:
    """The greatest lower and the least upper bound of a period of time."""

    low: Bound = _NO_LOW
    high: Bound = _NO_HIGH

    def add(self, bound: Bound, *, upper: bool) -> None:
        if upper:
            self.high = min(self.high, bound)
        else:
            self.low = max(self.low, bound)

    def contradicts(self, bound: Bound, tolerance: float, *, upper: bool) -> bool:
        if upper:
            return self.low.offset > bound.offset + tolerance
        return self.high.offset < bound.offset - tolerance


class ServerClock:
    """The clock of one server, known from the stamps of all prompts of all users.

    Times are seconds of the client's clock; `scale` is virtual seconds per second if they are virtual. `steps` are the
    steps of the clock that the stamps prove, in the order in which they were found.
    """

    def __init__(self, scale: float = 1.0) -> None:
        self._width = BUCKET * scale
        self._window = WINDOW * scale
        self._tolerance = STEP * scale
        self._buckets: dict[int, _Bucket] = {}
        # The extremes of all buckets.
        self._window_extremes = _Bucket()
        self._newest = -math.inf
        self._since = -math.inf
        self.steps: list[ClockStep] = []

    def observe(self, low: Bound, highs: Iterable[Bound]) -> None:
        """Add the bounds that the stamps of one prompt prove; prompts may come in any order."""
        for high in highs:
            self._take(high, upper=True)
        self._take(low, upper=False)

    @property
    def offset(self) -> float | None:
        """Client clock minus server clock; None before the first prompt."""
        least = self._window_extremes.high.offset
        return least if math.isfinite(least) else None

    def stepped_within(self, begin: float, end: float) -> bool:
        """Return whether the clock may have been set between these times, so that their stamps are not comparable."""
        # No step begins before the previous one has ended.
        later = bisect_right(self.steps, begin, key=lambda step: step.end)
        return any(step.within(begin, end) for step in self.steps[later : later + 1])

    def _take(self, bound: Bound, *, upper: bool) -> None:
        # A bound from before the last step applies to the clock as it was before.
        if bound.at < self._since or bound.at < self._newest - self._window:
            return
        if self._window_extremes.contradicts(bound, self._tolerance, upper=upper):
            self._step(bound, list(self._conflicts(bound, upper=upper)))
        if bound.at >= self._since:
            self._keep(bound, upper=upper)

    def _conflicts(self, bound: Bound, *, upper: bool) -> Iterator[Bound]:
        for bucket in self._buckets.values():
            if bucket.contradicts(bound, self._tolerance, upper=upper):
                yield bucket.low if upper else bucket.high

    def _step(self, bound: Bound, conflicts: list[Bound]) -> None:
        """Record a step between the two contradicting bounds closest in time; the later one is of the new clock."""
        other = min(conflicts, key=lambda each: abs(each.at - bound.at))
        old, new = sorted((other, bound), key=lambda each: each.at)
        # Setting the server's clock forward lowers the offset by the same amount.
        self.steps.append(ClockStep(old.at, new.at, old.offset - new.offset))
        self._since = new.at
        self._retain(lambda number: number * self._width >= new.at)

    def _keep(self, bound: Bound, *, upper: bool) -> None:
        self._forget(bound.at)
        bucket = self._buckets.setdefault(math.floor(bound.at / self._width), _Bucket())
        for extremes in (bucket, self._window_extremes):
            extremes.add(bound, upper=upper)

    def _forget(self, now: float) -> None:
        if now < self._newest + self._width:
            return
        self._newest = now
        oldest = math.floor((now - self._window) / self._width)
        self._retain(lambda number: number >= oldest)

    def _retain(self, kept: Callable[[int], bool]) -> None:
        self._buckets = {number: bucket for number, bucket in self._buckets.items() if kept(number)}
        self._window_extremes = _Bucket(
            max((bucket.low for bucket in self._buckets.values()), default=_NO_LOW),
            min((bucket.high for bucket in self._buckets.values()), default=_NO_HIGH),
        )
