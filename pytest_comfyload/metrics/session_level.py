"""The level of earlier sessions, the limit of a clean run, and slow change since an anchor."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_comfyload.metrics.intervals import t_quantile
from pytest_comfyload.metrics.session_noise import (
    NEAR,
    SHARED_IN_SEED,
    STEP_SESSIONS,
    SessionNoise,
    Step,
    median_variance,
    steps,
)

__all__ = [
    "ANCHOR",
    "Creep",
    "Level",
    "Limit",
    "creep_since",
    "head_variance",
    "level_of",
    "level_of_runs",
    "young_level",
]

# Sessions of a level: the newest ten, if these agree with each other; else the newest five.
_FAR = 10
# Sessions before one that is too young to be found by `steps`.
_FEWEST_BEFORE_YOUNG = 4
# The share of a session's variance that its runs have in common.
_SHARED = 0.5
_SURE, _REACH, _RERUN_TO = 0.998, 0.95, 3


def head_variance(runs: int) -> float:
    """Return the variance of the median of the head's runs, as a multiple of a session's."""
    return _SHARED + (1 - _SHARED) * median_variance(runs)


@dataclass(frozen=True, slots=True)
class Level:
    """`value` on the line of `Scale.place`; `variance` of it, as a multiple of a session's.

    `sessions`: the newest ones that it is of. `step`: the newest one that led to it, None where none is known.
    """

    value: float
    variance: float
    sessions: int
    step: Step | None = None


@dataclass(frozen=True, slots=True)
class Limit:
    """How far from a level a run must be before it counts, in a noise; `effect` at least."""

    noise: SessionNoise
    effect: float

    def at(self, variance: float) -> float:
        """Return what a clean head of three runs stays below, 998 times in 1,000."""
        return max(self.effect, self.by_noise(variance))

    def by_noise(self, variance: float) -> float:
        return t_quantile(_SURE, self.noise.freedom) * self._error(variance, _RERUN_TO)

    def reach(self, variance: float, runs: int) -> float:
        """Half of the 90 % interval of the distance between a level and a head of so many runs."""
        return t_quantile(_REACH, self.noise.freedom) * self._error(variance, runs)

    def _error(self, variance: float, runs: int) -> float:
        return self.noise.deviation * math.sqrt(variance + head_variance(runs))


def level_of(values: Sequence[float], limit: Limit, grain: float) -> Level:
    """Make a level of sessions, the newest last: of those since the newest step, if it is young.

    Else of the newest ten or five.
    """
    found = steps(values, grain, limit.effect)
    step = found[-1] if found else None
    since = len(values) - step.at if step is not None else _FAR
    if since < _FAR:
        return Level(statistics.median(values[-since:]), median_variance(since), since, step)
    near = min(len(values), NEAR)
    level = Level(statistics.median(values[-near:]), median_variance(near), near, step)
    if len(values) < NEAR + STEP_SESSIONS:
        return level
    far = min(len(values), _FAR)
    if abs(level.value - statistics.median(values[-far:-NEAR])) < limit.at(level.variance) / 2:
        return Level(statistics.median(values[-far:]), median_variance(far), far, step)
    return level


def level_of_runs(values: Sequence[float]) -> Level:
    """Make a level of the runs of a single session: they share most of what sessions differ by."""
    variance = SHARED_IN_SEED + (1 - SHARED_IN_SEED) * median_variance(len(values))
    return Level(statistics.median(values), variance, len(values))


def young_level(values: Sequence[float], level: Level, limit: Limit, head: float) -> Level | None:
    """The level of the newest one or two sessions, if the head is there too: then it did not make that step."""
    if len(values) < _FEWEST_BEFORE_YOUNG:
        return None
    newest, before = values[-1], values[-2]
    distance, least = head - level.value, limit.at(level.variance)
    near = max(least, abs(distance) / 2)
    side = math.copysign(1, distance)

    def is_off(value: float) -> bool:
        return side * (value - level.value) > least / 2

    if not is_off(newest) or abs(distance) <= least / 2 or abs(head - newest) >= near:
        return None
    sessions = 2 if is_off(before) and abs(newest - before) < near else 1
    value = statistics.fmean(values[-sessions:])
    return Level(value, 1 / sessions, sessions, Step(len(values) - sessions, value - level.value))


# Sessions of an anchor, and those for which the alarm must hold before it fails anything.
ANCHOR, _HELD = 10, 3
_SURE_OF_CREEP = 0.999


@dataclass(frozen=True, slots=True)
class Creep:
    """`distance` of the levels, on the line of `Scale.place`, and the `limit` that it is beyond.

    `held`: it was so in the two sessions before, too.
    """

    distance: float
    limit: float
    held: bool

    def explained(self, jumps: float) -> bool:
        """Return whether steps that were found, of so much together, are enough; those failed when they came."""
        return jumps > 0 and self.distance - jumps <= self.limit


def creep_since(anchor: Sequence[float], since: Sequence[float], noise: SessionNoise, effect: float) -> Creep | None:
    """`since`: the sessions after the anchor, the head's the last. None where it is no more than noise may make."""
    if len(anchor) < NEAR or len(since) < NEAR:
        return None
    error = noise.deviation * math.sqrt(median_variance(len(anchor)) + median_variance(NEAR))
    limit = max(effect, t_quantile(_SURE_OF_CREEP, noise.freedom) * error)
    sessions = [*anchor, *since]

    def distance(back: int) -> float:
        last = len(sessions) - back
        return statistics.median(sessions[last - NEAR : last]) - statistics.median(anchor)

    if distance(0) <= limit:
        return None
    return Creep(distance(0), limit, all(distance(back) > limit for back in range(1, _HELD)))
