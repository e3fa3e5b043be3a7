"""Figures that only a server's events provide: prompts accepted, and prompts deleted while they waited.

Opt-in, since a socket that is not read blocks a server's events to all of its clients. This one has a task that only
reads, its own client id and no compression, and is closed after this process has stalled.
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

# Seconds for which this process may stall before the socket is closed, and seconds between two checks.
MOST_LAG, TICK = 5.0, 0.5
# Seconds before the first reconnect, doubled each time up to the last; reset to the first after a long connection.
FIRST_PAUSE, LAST_PAUSE, LONG = 1.0, 60.0, 60.0


class QueueCounts:
    """Counts of accepted and deleted prompts, from the changes of the queue's length; no I/O.

    A server sends each change separately: +1 is a prompt that was accepted, −1 one that ended or was deleted. Prompts
    that ended are in the history before the change is sent, so the other departures were deletions. Departures are
    compared with the history only if none occurred since its last poll began: then no change is in transit.
    """

    def __init__(self, record: ServerRecord) -> None:
        self._record = record
        self._remaining: int | None = None
        self._left = 0
        # Departures from the queue when the last poll of the history began, if that poll succeeded.
        self._looked_at: int | None = None
        # Departures from the queue minus ended prompts, at the last comparison.
        self._surplus: int | None = None

    def change(self, remaining: int) -> None:
        """Take in the queue's length, which a server also sends when it has not changed."""
        if self._remaining is not None:
            self._record.accepted += max(0, remaining - self._remaining)
            self._left += max(0, self._remaining - remaining)
        self._remaining, self._record.events = remaining, True

    def lose(self) -> None:
        """Note that the socket was closed."""
        self._remaining, self._looked_at, self._record.events = None, None, False

    def forget(self) -> None:
        """Start the comparison over, since the history lacked some ended prompts."""
        self._surplus = None

    def begin_look(self) -> int:
        """Count deletions; return the argument for `end_look`, which is to be called once the record is updated."""
        if self._remaining is not None and self._looked_at == self._left:
            surplus = self._left - self._record.ended
            self._record.deleted += 0 if self._surplus is None else max(0, surplus - self._surplus)
            self._surplus = surplus
        self._looked_at = None
        return self._left

    def end_look(self, left: int) -> None:
        self._looked_at = left


class QueueEvents:
    """Source of queue events: a socket that is reopened whenever the connection is lost."""

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
        """Read events until the connection is lost. Raises: ServerError, always."""
        reader = asyncio.create_task(follow_queue(self._address, self._counts.change))
        try:
            while not reader.done():
                # Wall-clock time advances while a machine is suspended.
                before = time.time()
                await asyncio.wait({reader}, timeout=TICK)
                if (stood := time.time() - before - TICK) > MOST_LAG:
                    raise Disconnected(f"{self._address.url}: closed, since this process stalled for {stood:.0f} s")
            await reader
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, ServerError):
                await reader
