"""When kernels ran, and what that makes of the board's power, temperature and energy.

Nothing ticks: a reading is computed when it is asked for, from the condition at the end of what is folded away and the
few stretches since then.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace

__all__ = ["AMBIENT", "Board", "BoardState", "GpuActivity", "Reading"]

_WINDOW = 1.0
"""Seconds over which NVML counts the time in which some kernel ran."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the sensors say; `utilization` is the percent of the last second in which some kernel ran."""

    utilization: float
    condition: BoardState


@dataclass(slots=True)
class _Stretch:
    begin: float
    end: float
    load: float

    def within(self, begin: float, end: float) -> float:
        """Seconds of it between two moments."""
        return max(0.0, min(self.end, end) - max(self.begin, begin))


class GpuActivity:
    """What one board did since the moment `start`; moments are virtual epoch seconds."""

    def __init__(self, board: Board, start: float) -> None:
        self._board = board
        self._folded_until = start
        self._folded = board.idle()
        self._stretches: deque[_Stretch] = deque()
        self._known_until = math.inf
        self._read_at = start

    def spend(self, begin: float, end: float, load: float) -> None:
        """Kernels run for a share of this time, or not at all; each stretch begins where the last ended, or later."""
        self._known_until = end
        self._fold(begin - _WINDOW)
        last = self._stretches[-1] if self._stretches else None
        if last and last.end == begin and last.load == load:
            last.end = end
        elif load and end > begin:
            self._stretches.append(_Stretch(begin, end, load))

    def rest(self) -> None:
        """Be idle until the next `spend`."""
        self._known_until = math.inf

    def read(self, now: float) -> Reading:
        """The sensors at this moment; never earlier than at the last reading.

        A worker that the event loop has kept waiting is read as of the moment up to which it is known what it did:
        what follows is no pause of the GPU.
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
        """Forget the stretches that ended before any window that can still be asked for."""
        while self._stretches and self._stretches[0].end <= until:
            end = self._stretches[0].end
            self._folded = self._condition(end)
            self._folded_until = end
            self._stretches.popleft()


AMBIENT = 25.0
"""°C of the air around every board."""
_POWER_LAG = 0.5
_HEAT_LAG = 30.0
_OVERHEATED = 98.0
"""°C of a board that is not cooled any more, at its limit."""
_SW_THERMAL = 0x20
"""The bit of the clock event reasons that says that the driver lowers the clocks for heat."""


@dataclass(frozen=True, slots=True)
class BoardState:
    """power: W. temperature: °C. energy: J since the server's start."""

    power: float
    temperature: float
    energy: float = 0.0


@dataclass(frozen=True, slots=True)
class Board:
    """The electrical side of a GPU. Powers in W; `hot` is the °C that it reaches at its limit in the long run;
    clocks of the multiprocessors in MHz; `reserved` are the bytes of memory that the driver keeps to itself;
    `throttle` has the bits of the clock event reasons that hold while kernels run."""

    power_limit: float
    idle_power: float
    hot: float
    clock: int
    idle_clock: int
    reserved: int
    throttle: int = 0

    def overheating(self) -> Board:
        """Return it with cooling that fails: very hot at its limit, at half its clock."""
        return replace(self, hot=_OVERHEATED, clock=self.clock // 2, throttle=_SW_THERMAL)

    def idle(self) -> BoardState:
        """After a long time without work, at the energy counter's zero."""
        return BoardState(self.idle_power, AMBIENT + self._warming(self.idle_power))

    def after(self, before: BoardState, seconds: float, load: float) -> BoardState:
        """The condition when the board has worked for so long; `load` is the share of time in which kernels ran."""
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
        """Degrees that so much power brings in the long run."""
        return power * (self.hot - AMBIENT) / self.power_limit
