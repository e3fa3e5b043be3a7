"""Virtual time is wall time stretched by one constant factor from one common start."""

from __future__ import annotations

import asyncio
import time

__all__ = ["VirtualClock"]


class VirtualClock:
    """Gives virtual epoch seconds, and waits for them; deadlines are absolute, so waits do not add up errors.

    `skew` is by how many seconds the time shown to clients is ahead, for a clock that was set.
    """

    def __init__(self, scale: float) -> None:
        self.scale = scale
        self.skew = 0.0
        self._epoch = time.time()
        self._start = time.monotonic()

    def now(self) -> float:
        """The virtual epoch time in seconds."""
        return self._epoch + (time.monotonic() - self._start) * self.scale

    def stamp(self, moment: float) -> int:
        """A virtual epoch time as clients see it, in milliseconds."""
        return int((moment + self.skew) * 1000)

    async def until(self, moment: float) -> None:
        """Return when the virtual epoch time `moment` has come; always lets other tasks run."""
        await asyncio.sleep(max(0.0, (moment - self.now()) / self.scale))
