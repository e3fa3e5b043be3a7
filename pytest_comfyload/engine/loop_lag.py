"""How late the event loop runs what is due: the generator's own health, in wall seconds."""

from __future__ import annotations

import asyncio
import math
from contextlib import AbstractAsyncContextManager

from pytest_comfyload.engine.tasks import alongside

__all__ = ["LoopLag"]

PERIOD = 0.05


class LoopLag:
    """Samples the loop 20 times a second by absolute deadlines; keeps the p99 of how late it was."""

    def __init__(self) -> None:
        self._lags: list[float] = []

    @property
    def p99(self) -> float:
        """Seconds; 0 before the first sample."""
        if not self._lags:
            return 0.0
        return sorted(self._lags)[math.ceil(0.99 * len(self._lags)) - 1]

    def watching(self) -> AbstractAsyncContextManager[None]:
        return alongside(self._sample())

    async def _sample(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + PERIOD, loop.time())
            await asyncio.sleep(due - loop.time())
            self._lags.append(max(0.0, loop.time() - due))
