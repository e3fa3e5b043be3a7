"""The server's log as /internal/logs/raw shows it: the last 300 writes, stamped by the server's clock."""

from __future__ import annotations

import logging
from collections import deque
from datetime import datetime
from typing import Any

from pytest_comfyload.simulator.clock import VirtualClock

__all__ = ["Log"]

_LONGEST = 300
_TERMINAL = {"cols": 80, "rows": 24}


class Log(logging.Handler):
    """What a real server prints; as a logging handler it also takes what aiohttp has to say."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock
        self._entries: deque[dict[str, str]] = deque(maxlen=_LONGEST)

    def write(self, text: str) -> None:
        """Add one entry; ComfyUI's end with a newline."""
        moment = self._clock.stamp(self._clock.now()) / 1000
        self._entries.append({"t": datetime.fromtimestamp(moment).isoformat(timespec="microseconds"), "m": text})

    def emit(self, record: logging.LogRecord) -> None:
        self.write(self.format(record) + "\n")

    def to_json(self) -> dict[str, Any]:
        return {"entries": list(self._entries), "size": _TERMINAL}
