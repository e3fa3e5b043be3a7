"""The server's stamps of one prompt, converted to the client's clock.

Stamps are checked before they are used: sent ≤ accepted ≤ started ≤ ended ≤ seen must hold for some offset between the
clocks. If no offset fits, the phases derived from stamps are void; `total_time`, by the client's own clock, is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pytest_comfyload.protocol.server_clock import Bound

__all__ = ["Stamps"]

# How far the stamps of one prompt may contradict the client's clock: they are whole milliseconds, and a clock that is
# being slewed runs up to 500 ppm too fast or too slow.
_ROUNDING = 0.002
_SLEW = 0.0005


@dataclass(slots=True)
class Stamps:
    """One prompt's stamps, and the client's own times for the same points; None: not known.

    `create`, `start` and `end` are seconds of the server's clock, the others of the client's.
    """

    sent: float | None = None
    answered: float | None = None
    create: float | None = None
    start: float | None = None
    end: float | None = None
    start_seen: float | None = None
    end_seen: float | None = None

    @property
    def known(self) -> list[float]:
        """The known stamps, in the order in which they must increase."""
        stamps = (self.create, self.start, self.end)
        return [stamp for stamp in stamps if stamp is not None]

    def _upper_bounds(self) -> list[Bound]:
        """Return upper bounds on the offset: nothing is seen before it has happened."""
        seen = (
            (self.create, self.answered),
            (self.start, self.start_seen),
            (self.end, self.end_seen),
        )
        return [Bound(at - stamp, at) for stamp, at in seen if stamp is not None and at is not None]

    def hold(self, *, over: bool) -> bool:
        """Return whether sent ≤ accepted ≤ started ≤ ended ≤ seen for some offset between the clocks.

        If the prompt is `over`, the stamps of its start and its end must not be missing.
        """
        stamps, highs = self.known, self._upper_bounds()
        if over and (self.start is None or self.end is None):
            return False
        if stamps != sorted(stamps):
            return False
        if self.sent is None or not highs:
            return True
        high = min(highs)
        tolerance = _ROUNDING + _SLEW * max(0.0, high.at - self.sent)
        return self.sent - stamps[0] <= high.offset + tolerance

    def bounds(self, *, over: bool) -> tuple[Bound, list[Bound]] | None:
        """Return the bounds on the offset that the stamps prove, for `ServerClock.observe`; None if void or missing."""
        if self.sent is None or not self.known or not self.hold(over=over):
            return None
        return Bound(self.sent - self.known[0], self.sent), self._upper_bounds()

    def _fit(self, offset: float | None) -> float | None:
        """Return the offset, changed as little as necessary to keep this prompt's points in time in order."""
        stamps, highs = self.known, self._upper_bounds()
        if not highs or self.sent is None:
            return offset
        high = min(highs).offset
        return high if offset is None else min(max(offset, self.sent - stamps[0]), high)

    def placed(self, sent: float, offset: float | None) -> tuple[float | None, float | None, float | None]:
        """Return the times accepted, started and ended by the client's clock, in order and not after they were seen."""
        # Near the year 2026, a stamp as a float has a resolution of 2.4e-7 s: rounding must not change the order.
        offset = self._fit(offset)
        latest = math.inf if self.end_seen is None else self.end_seen
        accepted = self._accepted(sent, offset)
        accepted = None if accepted is None else min(accepted, latest)
        if self.start is None or offset is None:
            return accepted, None, None
        started = min(max(sent if accepted is None else accepted, self.start + offset), latest)
        if self.end is None:
            return accepted, started, None
        return accepted, started, min(started + (self.end - self.start), latest)

    def _accepted(self, sent: float, offset: float | None) -> float | None:
        """Return the time of acceptance: `create_time`, or else the start of execution; at the latest, the response."""
        stamp = self.start if self.create is None else self.create
        placed = None if stamp is None or offset is None else stamp + offset
        candidates = [time for time in (placed, self.answered) if time is not None]
        return max(sent, min(candidates)) if candidates else None
