"""The generator's own health: how late its event loop runs what is due, when it stalled, and when it was busy.

An answer that arrives while the loop is busy lies unread until the loop comes to it; a loop that waits for news has no
news to handle. So a time that the generator takes is wrong by at most the time for which its loop was busy meanwhile,
and by at most the worst lag of the loop for each of its passes that the prompt needed.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import selectors
import time
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from pytest_comfyload.client.clock import Clock
from pytest_comfyload.engine.observers import alongside
from pytest_comfyload.metrics.intervals import weighted_percentile
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.run_facts import Stall

__all__ = ["LoopLag", "MeasuredLoop"]

# Wall seconds between two deadlines of the loop.
PERIOD = 0.02
# Passes of the loop between a prompt and its outputs: submitting, the answer, the last event, a download. A stream of
# data is read in many more, but goes on arriving while one is late.
PASSES = 10
# Lags are counted by tenths of a millisecond.
_GRAIN = 1e-4
# A selector may round its timeout up to this.
_TIMEOUT_GRAIN = 0.001
# Of the busy time, looked at once a period; beyond that the older half is thinned. Of the stalls, the longest are kept.
_MOST_POINTS = 100_000
_MOST_STALLS = 100


class _IdleSelector(selectors.DefaultSelector):
    """`idle`: wall seconds in which there was nothing to do."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        begin = time.perf_counter()
        ready = super().select(timeout)
        waited = time.perf_counter() - begin
        # What is beyond the timeout was no wait: the process did not run.
        self.idle += waited if timeout is None else min(waited, max(0.0, timeout) + _TIMEOUT_GRAIN)
        return ready


class MeasuredLoop(asyncio.SelectorEventLoop):
    """An event loop that knows how long it was idle."""

    def __init__(self) -> None:
        self._idle_selector = _IdleSelector()
        super().__init__(self._idle_selector)

    @property
    def idle(self) -> float:
        return self._idle_selector.idle


def suspended() -> float:
    """Wall seconds that the machine has slept so far; only differences mean anything."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    return time.time() - time.monotonic()


class LoopLag:
    """Watches the loop by absolute deadlines, 50 a second; each one that was missed counts.

    `stall`: wall seconds by which a deadline must be missed for the loop to have stalled. `stalls` are dated by the
    run's clock; a machine that slept stalled as well.
    """

    def __init__(self, clock: Clock, stall: float, slept: Callable[[], float] = suspended) -> None:
        self._clock = clock
        self._stall = stall
        self._slept = slept
        self._lags: Counter[int] = Counter()
        self._lag_sum = 0.0
        self._times = array("d")
        self._busy = array("d")
        self._late = array("d")
        self.stalls: list[Stall] = []

    @property
    def p99(self) -> float:
        """Wall seconds; 0 before the first deadline."""
        return weighted_percentile(self._lags.items(), 99) * _GRAIN if self._lags else 0.0

    @property
    def worst(self) -> float:
        """Wall seconds."""
        return max(self._lags, default=0) * _GRAIN

    def stood_still(self, begin: float, end: float) -> bool:
        """Return whether a stall overlaps these times of the run's clock."""
        return any(stall.at < end and begin < stall.end for stall in self.stalls)

    def added_to(self, outcome: Outcome) -> float | None:
        """Wall seconds that the generator added to a prompt's total time, at most; None where that is not known.

        Only while the prompt is not with the server can it wait for the generator.
        """
        line = outcome.timeline
        if line is None or line.accepted is None or line.ended is None or line.fetched is None:
            return None
        return self.delay(outcome.intended, line.accepted) + self.delay(line.ended, line.fetched)

    def delay(self, begin: float, end: float) -> float:
        """Wall seconds for which something may have waited for the loop between two times of the run's clock."""
        first, last = bisect_right(self._times, begin), bisect_right(self._times, end)
        return min(self.busy(begin, end), PASSES * max(self._late[first : last + 1], default=math.inf))

    def busy(self, begin: float, end: float) -> float:
        """Wall seconds for which the loop was busy between two times of the run's clock."""
        if not self._times:
            return 0.0
        return max(0.0, self._busy_until(end) - self._busy_until(begin))

    def watching(self) -> AbstractAsyncContextManager[None]:
        return alongside(self._watch())

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        begin, due, slept = loop.time(), loop.time(), self._slept()
        slept_before = slept
        self._look(begin, 0.0, 0.0)
        while True:
            due += PERIOD
            await asyncio.sleep(due - loop.time())
            lag = max(0.0, loop.time() - due)
            due += self.missed(lag)
            if (nap := self._slept() - slept_before) > self._stall:
                self._note_stall(nap, at=self._clock.now())
            slept_before += nap
            self._look(begin, slept_before - slept, max(lag, nap))

    def missed(self, lag: float) -> float:
        """Count a deadline, and all that fell due while the loop was late for it; returns their time."""
        count = int(lag / PERIOD)
        for number in range(count + 1):
            self._lags[round((lag - number * PERIOD) / _GRAIN)] += 1
        self._lag_sum += lag
        if lag > self._stall:
            self._note_stall(lag, at=self._clock.now() - lag * self._clock.scale)
        return count * PERIOD

    def _note_stall(self, length: float, at: float) -> None:
        self.stalls.append(Stall(at, max(self._clock.now(), at), length))
        if len(self.stalls) > _MOST_STALLS:
            self.stalls = heapq.nlargest(_MOST_STALLS // 2, self.stalls, key=lambda stall: stall.length)

    def _look(self, begin: float, slept: float, late: float) -> None:
        """Note how long the loop has been busy so far; of a loop that does not measure it, its lags are known."""
        loop = asyncio.get_running_loop()
        if isinstance(loop, MeasuredLoop):
            self.note(self._clock.now(), loop.time() - begin - loop.idle + slept, late)
        else:
            self.note(self._clock.now(), self._lag_sum + slept, late)

    def note(self, now: float, busy: float, late: float) -> None:
        """At `now` (run's clock) the loop has been busy for `busy` wall seconds, and is `late` by so many."""
        self._times.append(now)
        self._busy.append(busy)
        self._late.append(late)
        if len(self._times) > _MOST_POINTS:
            half = len(self._times) // 2
            del self._times[:half:2], self._busy[:half:2], self._late[:half:2]

    def _busy_until(self, at: float) -> float:
        """Between two looks it is taken to be evenly busy; after the last one as busy as before it."""
        index = min(max(1, bisect_right(self._times, at)), len(self._times) - 1)
        if index < 1:
            return self._busy[0]
        (begin, end), (low, high) = self._times[index - 1 : index + 1], self._busy[index - 1 : index + 1]
        share = (at - begin) / (end - begin) if end > begin else 1.0
        return low + share * (high - low)
