"""Health of the generator itself: how late its event loop runs what is due, when it stalled, and when it was busy.

An answer that arrives while the loop is busy stays unread until the loop gets to it; while the loop waits for events,
none is pending. So the error of a time that the generator measures is at most the time for which its loop was busy
meanwhile, and at most the worst lag of the loop multiplied by the number of its iterations that the prompt needed.
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
# Iterations of the loop between a prompt and its outputs: submitting, the answer, the last event, a download. A stream
# of data takes many more to read, but continues to arrive while one of them is late.
PASSES = 10
# Lags are counted in units of a tenth of a millisecond.
_GRAIN = 1e-4
# Resolution to which a selector may round up its timeout, in seconds.
_TIMEOUT_GRAIN = 0.001
# Limits on the points of the busy time, noted once per period, and on stalls. Beyond them, the older half of the points
# is thinned, and only the longest stalls are kept.
_MOST_POINTS = 100_000
_MOST_STALLS = 100


class _IdleSelector(selectors.DefaultSelector):
    """A selector that measures waiting. `idle` is the wall seconds in which there was nothing to do."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        begin = time.perf_counter()
        ready = super().select(timeout)
        waited = time.perf_counter() - begin
        # Time beyond the timeout was not spent waiting: the process was not running.
        self.idle += waited if timeout is None else min(waited, max(0.0, timeout) + _TIMEOUT_GRAIN)
        return ready


class MeasuredLoop(asyncio.SelectorEventLoop):
    """An event loop that measures how long it was idle."""

    def __init__(self) -> None:
        self._idle_selector = _IdleSelector()
        super().__init__(self._idle_selector)

    @property
    def idle(self) -> float:
        return self._idle_selector.idle


def suspended() -> float:
    """Return the wall seconds for which the machine has been suspended so far; only differences are meaningful."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    return time.time() - time.monotonic()


class LoopLag:
    """A monitor of the event loop's lag, by 50 absolute deadlines per second; every missed one counts.

    If a deadline is missed by more than `stall` wall seconds, the loop has stalled. `stalls` are in times of the run's
    clock, and include suspensions of the machine.
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
        """The 99th percentile of the lag in wall seconds; 0 before the first deadline."""
        return weighted_percentile(self._lags.items(), 99) * _GRAIN if self._lags else 0.0

    @property
    def worst(self) -> float:
        """The worst lag in wall seconds."""
        return max(self._lags, default=0) * _GRAIN

    def stood_still(self, begin: float, end: float) -> bool:
        """Return whether a stall overlaps these times of the run's clock."""
        return any(stall.at < end and begin < stall.end for stall in self.stalls)

    def added_to(self, outcome: Outcome) -> float | None:
        """Return the wall seconds that the generator added at most to a prompt's total time; None if unknown.

        A prompt can wait for the generator only while it is not with the server.
        """
        line = outcome.timeline
        if line is None or line.accepted is None or line.ended is None or line.fetched is None:
            return None
        return self.delay(outcome.intended, line.accepted) + self.delay(line.ended, line.fetched)

    def delay(self, begin: float, end: float) -> float:
        """Return the wall seconds that an event may have waited for the loop between two times of the run's clock."""
        first, last = bisect_right(self._times, begin), bisect_right(self._times, end)
        return min(self.busy(begin, end), PASSES * max(self._late[first : last + 1], default=math.inf))

    def busy(self, begin: float, end: float) -> float:
        """Return the wall seconds for which the loop was busy between two times of the run's clock."""
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
        """Count a deadline and those that passed while the loop was late for it; return the seconds of the latter."""
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
        """Note how long the loop has been busy so far; if it does not measure that, use the sum of its lags."""
        loop = asyncio.get_running_loop()
        if isinstance(loop, MeasuredLoop):
            self.note(self._clock.now(), loop.time() - begin - loop.idle + slept, late)
        else:
            self.note(self._clock.now(), self._lag_sum + slept, late)

    def note(self, now: float, busy: float, late: float) -> None:
        """Note that at `now` (run's clock) the loop has been busy for `busy` wall seconds, and is late by `late`."""
        self._times.append(now)
        self._busy.append(busy)
        self._late.append(late)
        if len(self._times) > _MOST_POINTS:
            half = len(self._times) // 2
            del self._times[:half:2], self._busy[:half:2], self._late[:half:2]

    def _busy_until(self, at: float) -> float:
        """Return the busy time at a time of the run's clock.

        It is interpolated linearly between two points, and extrapolated at the same rate after the last one.
        """
        index = min(max(1, bisect_right(self._times, at)), len(self._times) - 1)
        if index < 1:
            return self._busy[0]
        (begin, end), (low, high) = self._times[index - 1 : index + 1], self._busy[index - 1 : index + 1]
        share = (at - begin) / (end - begin) if end > begin else 1.0
        return low + share * (high - low)
