"""Times at which kernels ran, and the power, temperature and energy of the board that follow from them.

Nothing is updated periodically: a reading is computed on request, from a state in the past, into which old stretches
have been folded, and the few stretches since then.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace

__all__ = ["AMBIENT", "Board", "BoardState", "GpuActivity", "Reading"]

_WINDOW = 1.0
"""Seconds over which NVML averages the share of time in which any kernel ran."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Sensor reading; `utilization` is the percentage of the last second in which any kernel ran."""

    utilization: float
    condition: BoardState


@dataclass(slots=True)
class _Stretch:
    begin: float
    end: float
    load: float

    def within(self, begin: float, end: float) -> float:
        """Return how many seconds of the stretch lie between two moments."""
        return max(0.0, min(self.end, end) - max(self.begin, begin))


class GpuActivity:
    """Activity of one board since the moment `start`; moments are virtual epoch seconds."""

    def __init__(self, board: Board, start: float) -> None:
        self._board = board
        self._folded_until = start
        self._folded = board.idle()
        self._stretches: deque[_Stretch] = deque()
        self._known_until = math.inf
        self._read_at = start

    def spend(self, begin: float, end: float, load: float) -> None:
        """Record in which share of this time kernels run; `begin` must not be before the end of the last stretch."""
        self._known_until = end
        self._fold(begin - _WINDOW)
        last = self._stretches[-1] if self._stretches else None
        if last and last.end == begin and last.load == load:
            last.end = end
        elif load and end > begin:
            self._stretches.append(_Stretch(begin, end, load))

    def rest(self) -> None:
        """Record that the board is idle until the next `spend`."""
        self._known_until = math.inf

    def read(self, now: float) -> Reading:
        """Return the reading at this moment, or at the moment of the last reading if that is later.

        While the event loop delays the worker, its activity is known only up to an earlier moment. The reading is as of
        that moment, since the time after it is not a pause of the GPU.
        """
        moment = self._read_at = max(self._read_at, min(now, self._known_until))
        busy = sum(stretch.load * stretch.within(moment - _WINDOW, moment) for stretch in self._stretches)
        return Reading(min(100.0, 100 * busy / _WINDOW), self._condition(moment))

    def _condition(self, moment: float) -> BoardState:
        at, condition = self._folded_until, self._folded
        for stretch in self._stretches:
            if stretch.begin >= moment:
                break
            condition = self._board.after(condition, stretch.begin - at, 0.0)
            at = min(stretch.end, moment)
            condition = self._board.after(condition, at - stretch.begin, stretch.load)
        return self._board.after(condition, moment - at, 0.0)

    def _fold(self, until: float) -> None:
        """Fold into the state those stretches that ended before any window that can still be read."""
        while self._stretches and self._stretches[0].end <= until:
            end = self._stretches[0].end
            self._folded = self._condition(end)
            self._folded_until = end
            self._stretches.popleft()


AMBIENT = 25.0
"""Temperature of the air around every board, in °C."""
_POWER_LAG = 0.5
_HEAT_LAG = 30.0
_OVERHEATED = 98.0
"""Temperature in °C of a board with failed cooling, at its power limit."""
_SW_THERMAL = 0x20
"""Bit of the clock event reasons: the driver lowers the clocks because of heat."""


@dataclass(frozen=True, slots=True)
class BoardState:
    """State of a board: power in W, temperature in °C, energy in J since the server's start."""

    power: float
    temperature: float
    energy: float = 0.0


@dataclass(frozen=True, slots=True)
class Board:
    """Electrical and thermal properties of a GPU, with powers in W and clocks of the multiprocessors in MHz.

    `hot` is the temperature in °C that the board settles at under its power limit; `reserved` is the memory in bytes
    that the driver reserves for itself; `throttle` has the bits of the clock event reasons while kernels run.
    """

    power_limit: float
    idle_power: float
    hot: float
    clock: int
    idle_clock: int
    reserved: int
    throttle: int = 0

    def overheating(self) -> Board:
        """Return this board with failed cooling: very hot at its limit, and at half its clock."""
        return replace(self, hot=_OVERHEATED, clock=self.clock // 2, throttle=_SW_THERMAL)

    def idle(self) -> BoardState:
        """Return the state after a long time without work, with the energy counter at zero."""
        return BoardState(self.idle_power, AMBIENT + self._warming(self.idle_power))

    def after(self, before: BoardState, seconds: float, load: float) -> BoardState:
        """Return the state `seconds` after `before`; `load` is the share of that time in which kernels ran."""
        wanted = self.idle_power + load * (self.power_limit - self.idle_power)
        excess = before.power - wanted
        ramp = self._warming(excess) * _POWER_LAG / (_POWER_LAG - _HEAT_LAG)
        settled = AMBIENT + self._warming(wanted)
        left, heat_left = math.exp(-seconds / _POWER_LAG), math.exp(-seconds / _HEAT_LAG)
        return BoardState(
            power=wanted + excess * left,
            temperature=settled + ramp * left + (before.temperature - settled - ramp) * heat_left,
            energy=before.energy + wanted * seconds + excess * _POWER_LAG * -math.expm1(-seconds / _POWER_LAG),
        )

    def _warming(self, power: float) -> float:
        """Return by how many degrees this power warms the board in the long run."""
        return power * (self.hot - AMBIENT) / self.power_limit
