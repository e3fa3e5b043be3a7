"""Looks at a server's GPUs at absolute deadlines; a look that gets no answer is a gap in the samples, and is told."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from pytest_comfyload.errors import ServerError
from pytest_comfyload.gpu.metric_names import Card
from pytest_comfyload.gpu.source import Keep, Now
from pytest_comfyload.result.telemetry import GpuSample

__all__ = ["PATIENCE", "Poller", "Read", "wall_period"]

# Real seconds that one look may take, and the last one, for which the end of the run waits.
PATIENCE = 2.0
_LAST_PATIENCE = 1.0
# Real seconds between two looks, at least: a simulator's seconds can be short. At the ×20 of the embedded one it is one
# of these: memory that is full for a second must not fall between two looks.
_LEAST = 0.05

Read = Callable[[], Awaitable[Sequence[Card]]]


def wall_period(seconds: float, scale: float = 1.0) -> float:
    """Real seconds between two looks that are to be `seconds` of the run's clock apart."""
    return max(seconds / scale, _LEAST)


class Poller:
    """Asks once every `period` real seconds; `what` is asked, for sentences."""

    def __init__(self, server: str, what: str, period: float) -> None:
        self._server = server
        self._what = what
        self._period = period
        self._looks = 0
        self._missed = 0
        self._reason = ""
        self._answers = False
        self._first: dict[str, Card] = {}
        self._last: dict[str, Card] = {}
        self._looked_at: float | None = None

    @property
    def losses(self) -> tuple[str, ...]:
        silent = f"{self._what} gave no answer to {self._missed} of {self._looks} looks ({self._reason})"
        lost = [f"{self._what} told no more of {gpu} in the end" for gpu in self._first if gpu not in self._last]
        failed = [
            f"{gpu} reported an error to its driver (XID {card.xid})"
            for gpu, card in self._last.items()
            if card.xid and card.xid != self._first[gpu].xid
        ]
        return (*([silent] if self._missed else []), *lost, *failed)

    @contextlib.asynccontextmanager
    async def watching(self, read: Read, keep: Keep, now: Now) -> AsyncIterator[None]:
        await self._look(read, keep, now)
        watch = asyncio.create_task(self._watch(read, keep, now))
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        # What is left since the last look; an interrupted load does not wait for it, nor does any for a silent source.
        if self._answers:
            await self._look(read, keep, now, _LAST_PATIENCE)

    async def _watch(self, read: Read, keep: Keep, now: Now) -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        while True:
            turn = math.floor((loop.time() - begin) / self._period) + 1
            await asyncio.sleep(begin + turn * self._period - loop.time())
            await self._look(read, keep, now)

    async def _look(self, read: Read, keep: Keep, now: Now, patience: float = PATIENCE) -> None:
        self._looks += 1
        try:
            async with asyncio.timeout(patience):
                cards = {card.gpu: card for card in await read()}
        except (ServerError, TimeoutError) as error:
            self._missed += 1
            self._answers = False
            self._reason = str(error) or "no answer in time"
            self._looked_at = now()
            return
        self._answers = True
        time = now()
        # Since the last look, answered or not: what a gap held, nobody knows.
        span = 0.0 if self._looked_at is None else time - self._looked_at
        self._looked_at = time
        self._first = {**cards, **self._first}
        self._last = cards
        for card in cards.values():
            keep(GpuSample(self._server, card.gpu, time, span, **card.values))
