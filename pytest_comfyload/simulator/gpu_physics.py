"""A board's power follows its load with a lag, its temperature follows the power with a longer one, energy is power's
integral; all in closed form, so that one long stretch gives what many short ones give.

The cooling is made for the power limit: a board that works for ever settles below where real ones slow down. Hence
none ever throttles, which would be a lie as long as it slowed nothing down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["AMBIENT", "Board", "Condition"]

AMBIENT = 25.0
"""°C of the air around every board."""
_POWER_LAG = 0.5
_HEAT_LAG = 30.0


@dataclass(frozen=True, slots=True)
class Condition:
    """power: W. temperature: °C. energy: J since the server's start."""

    power: float
    temperature: float
    energy: float = 0.0


@dataclass(frozen=True, slots=True)
class Board:
    """The electrical side of a GPU. Powers in W; `hot` is the °C that it reaches at its limit in the long run;
    clocks of the multiprocessors in MHz; `reserved` are the bytes of memory that the driver keeps to itself."""

    power_limit: float
    idle_power: float
    hot: float
    clock: int
    idle_clock: int
    reserved: int

    def idle(self) -> Condition:
        """After a long time without work, at the energy counter's zero."""
        return Condition(self.idle_power, AMBIENT + self._warming(self.idle_power))

    def after(self, before: Condition, seconds: float, load: float) -> Condition:
        """The condition when the board has worked for so long; `load` is the share of time in which kernels ran."""
        wanted = self.idle_power + load * (self.power_limit - self.idle_power)
        excess = before.power - wanted
        ramp = self._warming(excess) * _POWER_LAG / (_POWER_LAG - _HEAT_LAG)
        settled = AMBIENT + self._warming(wanted)
        left, heat_left = math.exp(-seconds / _POWER_LAG), math.exp(-seconds / _HEAT_LAG)
        return Condition(
            power=wanted + excess * left,
            temperature=settled + ramp * left + (before.temperature - settled - ramp) * heat_left,
            energy=before.energy + wanted * seconds + excess * _POWER_LAG * -math.expm1(-seconds / _POWER_LAG),
        )

    def _warming(self, power: float) -> float:
        """Degrees that so much power brings in the long run."""
        return power * (self.hot - AMBIENT) / self.power_limit
