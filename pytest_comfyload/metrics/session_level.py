"""The level of earlier sessions, the limit for a clean run, and slow change since an anchor."""

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

# Sessions of a level: the newest ten if they agree with each other, else the newest five.
_FAR = 10
# Fewest sessions for finding a step that is too recent for `steps`.
_FEWEST_BEFORE_YOUNG = 4
# The share of a session's variance that its runs have in common.
_SHARED = 0.5
_SURE, _REACH, _RERUN_TO = 0.998, 0.95, 3


def head_variance(runs: int) -> float:
    """Return the variance of the median of the head's runs, as a multiple of a session's."""
    return _SHARED + (1 - _SHARED) * median_variance(runs)


@dataclass(frozen=True, slots=True)
class Level:
    """A level: `value` is on the `Scale.place` axis, `variance` is its variance as a multiple of a session's.

    `sessions` is the number of the newest sessions that it consists of, `step` the newest step that led to it, None if
    none is known.
    """

    value: float
    variance: float
    sessions: int
    step: Step | None = None


@dataclass(frozen=True, slots=True)
class Limit:
    """The distance from a level at which a run counts, for a given noise; at least `effect`."""

    noise: SessionNoise
    effect: float

    def at(self, variance: float) -> float:
        """Return the distance that a clean head of three runs stays below 998 times in 1,000."""
        return max(self.effect, self.by_noise(variance))

    def by_noise(self, variance: float) -> float:
        return t_quantile(_SURE, self.noise.freedom) * self._error(variance, _RERUN_TO)

    def reach(self, variance: float, runs: int) -> float:
        """Return half the width of the 90 % interval of the distance between a level and a head of this many runs."""
        return t_quantile(_REACH, self.noise.freedom) * self._error(variance, runs)

    def _error(self, variance: float, runs: int) -> float:
        return self.noise.deviation * math.sqrt(variance + head_variance(runs))


def level_of(values: Sequence[float], limit: Limit, grain: float) -> Level:
    """Return the level of sessions, the newest last: of those since the newest step, if it is recent.

    Otherwise it is that of the newest ten or five.
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
    """Return the level of the runs of a single session, which share most of what makes sessions differ."""
    variance = SHARED_IN_SEED + (1 - SHARED_IN_SEED) * median_variance(len(values))
    return Level(statistics.median(values), variance, len(values))


def young_level(values: Sequence[float], level: Level, limit: Limit, head: float) -> Level | None:
    """Return the level of the newest one or two sessions if the head is there, too: then the step is not its own."""
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


# Sessions of an anchor, and consecutive sessions that must show a creep before it fails a test.
ANCHOR, _HELD = 10, 3
_SURE_OF_CREEP = 0.999


@dataclass(frozen=True, slots=True)
class Creep:
    """A slow change: the `distance` of the levels on the `Scale.place` axis, and the `limit` that it exceeds.

    `held` says whether it also exceeded the limit in the two sessions before.
    """

    distance: float
    limit: float
    held: bool

    def explained(self, jumps: float) -> bool:
        """Return whether steps that were found, with this sum, explain it; those failed when they occurred."""
        return jumps > 0 and self.distance - jumps <= self.limit


def creep_since(anchor: Sequence[float], since: Sequence[float], noise: SessionNoise, effect: float) -> Creep | None:
    """Return the creep since an anchor; None if it may be noise.

    `since` are the sessions after the anchor, the head's last.
    """
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
