"""What a server's events add to its history: prompts that were accepted, and those deleted while they waited.

Opt-in, since a socket that is not read stops a server's events to all of its clients: this one has a task that only
reads, a client id of its own, no compression, and is closed after this process has stalled.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import NoReturn

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.socket import follow_queue
from pytest_comfyload.errors import Disconnected, ServerError
from pytest_comfyload.monitor.server_record import ServerRecord

__all__ = ["QueueCounts", "QueueEvents"]

# Seconds that this process may stand still before the socket is closed, and between two checks of it.
MOST_LAG, TICK = 5.0, 0.5
# Seconds before the first attempt to connect again, doubled up to the last; after a long connection it is the first.
FIRST_PAUSE, LAST_PAUSE, LONG = 1.0, 60.0, 60.0


class QueueCounts:
    """Counts prompts by the length of the queue at each of its changes; no I/O.

    A server sends each change by itself: +1 is a prompt that was accepted, −1 one that ended or was deleted. Those that
    ended are in the history before the change is sent, so that the others were deleted. The two are compared when
    nothing has left the queue since the last look at the history began: no change is on its way then.
    """

    def __init__(self, record: ServerRecord) -> None:
        self._record = record
        self._remaining: int | None = None
        self._left = 0
        # What had left the queue when the last look at the history began, if that has succeeded.
        self._looked_at: int | None = None
        # How many more had left the queue than ended, when the two were compared last.
        self._surplus: int | None = None

    def change(self, remaining: int) -> None:
        """Take in the queue's length, which a server also sends where nothing has changed."""
        if self._remaining is not None:
            self._record.accepted += max(0, remaining - self._remaining)
            self._left += max(0, self._remaining - remaining)
        self._remaining, self._record.events = remaining, True

    def lose(self) -> None:
        """Take notice that the socket was closed."""
        self._remaining, self._looked_at, self._record.events = None, None, False

    def forget(self) -> None:
        """Begin anew, since not all that ended was found in the history."""
        self._surplus = None

    def begin_look(self) -> int:
        """Return what `end_look` is to be given, once all that has ended is counted in the record."""
        if self._remaining is not None and self._looked_at == self._left:
            surplus = self._left - self._record.ended
            self._record.deleted += 0 if self._surplus is None else max(0, surplus - self._surplus)
            self._surplus = surplus
        self._looked_at = None
        return self._left

    def end_look(self, left: int) -> None:
        self._looked_at = left


class QueueEvents:
    """Keeps counts up to date by a socket, which is opened again after each loss."""

    def __init__(self, address: ServerAddress, counts: QueueCounts, say: Callable[[str], None]) -> None:
        self._counts = counts
        self._address = address
        self._say = say
        counts.lose()

    async def watch(self) -> NoReturn:
        pause, said = FIRST_PAUSE, ""
        while True:
            begun = time.monotonic()
            try:
                await self._follow()
            except ServerError as error:
                if str(error) != said:
                    self._say(f"events: {error}")
                said = str(error)
            finally:
                self._counts.lose()
            pause = FIRST_PAUSE if time.monotonic() - begun > LONG else pause
            await asyncio.sleep(pause)
            pause = min(LAST_PAUSE, 2 * pause)

    async def _follow(self) -> None:
        """Raises: ServerError, always."""
        reader = asyncio.create_task(follow_queue(self._address, self._counts.change))
        try:
            while not reader.done():
                # Wall-clock time goes on while a machine is suspended.
                before = time.time()
                await asyncio.wait({reader}, timeout=TICK)
                if (stood := time.time() - before - TICK) > MOST_LAG:
                    raise Disconnected(f"{self._address.url}: closed, since this process stalled for {stood:.0f} s")
            await reader
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, ServerError):
                await reader
