"""A server's stamps come onto the client's clock by one offset: the least (arrival − stamp) of the last minute.

No event arrives before it happens, so every difference is the true offset plus a delay; the least of many is the
offset plus the least delay (measured on a real server: 0.4 to 1.2 ms). The window follows clocks that drift.
"""

from __future__ import annotations

from collections import deque

__all__ = ["ServerClock"]

WINDOW = 60.0


class ServerClock:
    """The offset of one server, learnt from the stamped events of all users on it."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque()

    def observe(self, stamp: float, arrival: float) -> None:
        """A stamped event of the server (seconds since the epoch) arrived (seconds of the client's clock)."""
        self._seen.append((arrival, arrival - stamp))
        while self._seen[0][0] < arrival - WINDOW:
            self._seen.popleft()

    @property
    def offset(self) -> float | None:
        """Client clock minus server clock, in seconds; None before the first event."""
        return min((difference for _, difference in self._seen), default=None)
