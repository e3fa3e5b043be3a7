"""The client's clock: monotonic seconds since the run began; on a simulated server, virtual seconds.

A simulator runs `scale` virtual seconds per second, and everything that is measured or scheduled there is virtual. The
generator's own lag is wall time: `wall()` converts.
"""

from __future__ import annotations

import asyncio
import time

__all__ = ["Clock"]


class Clock:
    """Seconds since `origin`, a reading of time.perf_counter() (default: now), multiplied by `scale`."""

    def __init__(self, scale: float = 1.0, origin: float | None = None) -> None:
        now = time.perf_counter()
        self.scale = scale
        self.origin = now if origin is None else origin
        self.epoch = time.time() - (now - self.origin)

    def now(self) -> float:
        return (time.perf_counter() - self.origin) * self.scale

    def wall(self, duration: float) -> float:
        """Convert a duration of this clock to real seconds."""
        return duration / self.scale

    async def sleep_until(self, deadline: float) -> None:
        """Sleep until an absolute deadline, so that delays never accumulate."""
        remaining = self.wall(deadline - self.now())
        if remaining > 0:
            await asyncio.sleep(remaining)
