"""Virtual time, which is wall time multiplied by a constant, and the server's log, which is stamped with it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from datetime import datetime
from typing import Any

__all__ = ["Log", "VirtualClock"]


class VirtualClock:
    """Clock of virtual epoch seconds; deadlines are absolute, so that the errors of waits do not accumulate.

    `skew` is the number of seconds by which the time shown to clients is ahead, as after a clock was set.
    """

    def __init__(self, scale: float) -> None:
        self.scale = scale
        self.skew = 0.0
        self._epoch = time.time()
        self._start = time.monotonic()

    def now(self) -> float:
        """Return the virtual epoch time in seconds."""
        return self._epoch + (time.monotonic() - self._start) * self.scale

    def stamp(self, moment: float) -> int:
        """Return a virtual epoch time as clients see it, in milliseconds."""
        return int((moment + self.skew) * 1000)

    async def until(self, moment: float) -> None:
        """Wait until the virtual epoch time `moment`; always let other tasks run."""
        await asyncio.sleep(max(0.0, (moment - self.now()) / self.scale))


_LONGEST = 300
_TERMINAL = {"cols": 80, "rows": 24}


class Log(logging.Handler):
    """The lines that a real server prints; as a logging handler it also takes aiohttp's messages."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock
        self._entries: deque[dict[str, str]] = deque(maxlen=_LONGEST)

    def write(self, text: str) -> None:
        """Add one entry; those of ComfyUI end with a newline."""
        moment = self._clock.stamp(self._clock.now()) / 1000
        self._entries.append({"t": datetime.fromtimestamp(moment).isoformat(timespec="microseconds"), "m": text})

    def emit(self, record: logging.LogRecord) -> None:
        self.write(self.format(record) + "\n")

    def to_json(self) -> dict[str, Any]:
        return {"entries": list(self._entries), "size": _TERMINAL}
