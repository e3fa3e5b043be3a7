"""Slow change: the level of the newest sessions against that of an anchor, since a level that moves along hides it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_comfyload.result.session_noise import NEAR, SessionNoise, median_variance
from pytest_comfyload.result.student import t_quantile

__all__ = ["ANCHOR", "Creep", "creep_since"]

# Sessions of an anchor, and those for which the alarm must hold before it fails anything.
ANCHOR, _HELD = 10, 3
_SURE = 0.999


@dataclass(frozen=True, slots=True)
class Creep:
    """`distance` of the levels, on the line of `Scale.place`, and the `limit` that it is beyond.

    `held`: it was so in the two sessions before, too.
    """

    distance: float
    limit: float
    held: bool

    def explained(self, jumps: float) -> bool:
        """Whether steps that were found, of so much together, are enough; those failed when they came."""
        return jumps > 0 and self.distance - jumps <= self.limit


def creep_since(anchor: Sequence[float], since: Sequence[float], noise: SessionNoise, effect: float) -> Creep | None:
    """`since`: the sessions after the anchor, the head's the last. None where it is no more than noise may make."""
    if len(anchor) < NEAR or len(since) < NEAR:
        return None
    error = noise.deviation * math.sqrt(median_variance(len(anchor)) + median_variance(NEAR))
    limit = max(effect, t_quantile(_SURE, noise.freedom) * error)
    sessions = [*anchor, *since]

    def distance(back: int) -> float:
        last = len(sessions) - back
        return statistics.median(sessions[last - NEAR : last]) - statistics.median(anchor)

    if distance(0) <= limit:
        return None
    return Creep(distance(0), limit, all(distance(back) > limit for back in range(1, _HELD)))
