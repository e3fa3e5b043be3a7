"""How much sessions of one test differ without a change; robust to odd sessions and to steps between levels.

Values are on the `Scale.place` axis (for times, the natural logarithm), oldest first, one for each session. `grain` is
the length on that axis of 1 % for times.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

__all__ = [
    "NEAR", "SHARED_IN_SEED", "STEP_SESSIONS", "OwnNoise", "SessionNoise", "Step", "estimate", "first_session",
    "median_variance", "noise_of_runs", "own_noise", "steps",
]  # fmt: skip

# Sessions that make up a level, and sessions that must be on a new level before it counts as one.
NEAR, STEP_SESSIONS = 5, 3
_STEP_ERRORS, _STEP_DISTANCE = 3.5, 4
# The shares of the residuals, and of the hops between sessions, that are explained by noise; the rest may be anything.
_COVERED, _COVERED_HOPS = 0.8, 0.65
# Degrees of freedom of one residual, as residuals of neighbours overlap.
_FREEDOM_OF_RESIDUAL = 0.6
# In grains: the noise assumed before anything is known, the least assumed, and the least that one series may show.
_PRIOR, _LEAST, _LEAST_OWN = 2.0, 1.0, 0.2
# Degrees of freedom: of the prior; the sum up to which the prior and the environment fill up; the minimum of these two.
_PRIOR_FREEDOM, _ENOUGH_FREEDOM, _LEAST_FREEDOM = 4.0, 12.0, 3.0
# The share of the variance that runs of one session have in common, assumed if no other session shows it.
SHARED_IN_SEED = 0.8
_NORMAL = NormalDist()
_OF_MEDIAN = {1: 1.0, 2: 0.5, 3: 0.449, 4: 0.298, 5: 0.287}


def median_variance(n: int) -> float:
    """Return the variance of the median of n normal values, as a multiple of their variance."""
    return _OF_MEDIAN.get(n, 1.57 / n)


@dataclass(frozen=True, slots=True)
class Step:
    """A step between levels: `at` is the index of the first session on the new level, or near it.

    `jump` is the distance from the old level to the new one.
    """

    at: int
    jump: float


@dataclass(frozen=True, slots=True)
class OwnNoise:
    """The standard deviation of the sessions of one series, from this series alone, and its degrees of freedom."""

    deviation: float
    freedom: float


@dataclass(frozen=True, slots=True)
class SessionNoise:
    """The standard deviation of a session and its degrees of freedom; `borrowed` counts the other series used."""

    deviation: float
    freedom: float
    borrowed: int = 0


def steps(values: Sequence[float], grain: float, effect: float) -> list[Step]:
    """Return the steps between levels: jumps beyond `effect` and beyond chance.

    Each is the greatest within four sessions.
    """
    if len(values) < NEAR + STEP_SESSIONS or max(values) - min(values) <= effect:
        return []
    unit = _hop_noise(values, grain)
    jumps = {at: _jump(values, at) for at in range(NEAR, len(values) - STEP_SESSIONS + 1)}
    score = {at: abs(jump) / (unit * _jump_error(values, at)) for at, jump in jumps.items() if abs(jump) > effect}

    def is_greatest(at: int) -> bool:
        return score[at] >= max(score.get(near, 0.0) for near in range(at - _STEP_DISTANCE, at + _STEP_DISTANCE + 1))

    return [Step(at, jumps[at]) for at in score if score[at] > _STEP_ERRORS and is_greatest(at)]


def first_session(values: Sequence[float], step: Step) -> int:
    """Return the index of the session that made the step; medians of five differ as much for its neighbours."""
    begin, end = max(0, step.at - NEAR), min(len(values), step.at + NEAR)
    before = statistics.median(values[begin : step.at])

    def misfit(at: int) -> float:
        after = before + step.jump
        return math.fsum(abs(values[each] - (before if each < at else after)) for each in range(begin, end))

    return min(range(max(1, step.at - 2), min(len(values), step.at + 3)), key=misfit)


def _hop_noise(values: Sequence[float], grain: float) -> float:
    """Estimate the noise from the hops between sessions: a step is only one of them, however high."""
    hops = sorted(abs(after - before) for before, after in pairwise(values))
    rank = int(_COVERED_HOPS * len(hops) + 0.5)
    return max(_covering(hops, rank) / math.sqrt(2), _LEAST * grain)


def _jump(values: Sequence[float], at: int) -> float:
    """Return the difference of the medians on both sides; 0 if not every session of a young level shows it."""
    before, after = statistics.median(values[at - NEAR : at]), values[at : at + NEAR]
    jump = statistics.median(after) - before
    if len(after) == NEAR or all(math.copysign(1, jump) * (each - before) > abs(jump) / 2 for each in after):
        return jump
    return 0.0


def _jump_error(values: Sequence[float], at: int) -> float:
    return math.sqrt(median_variance(len(values[at : at + NEAR])) + median_variance(NEAR))


def _covering(ordered: Sequence[float], rank: int) -> float:
    """Return the standard deviation of normal values whose rank-th smallest distance from 0 is as observed."""
    return ordered[rank - 1] / _NORMAL.inv_cdf((1 + (rank - 0.5) / len(ordered)) / 2)


def own_noise(values: Sequence[float], grain: float, effect: float, accepted: int = 0) -> OwnNoise | None:
    """Estimate the noise of the sessions of one series, leaving out sessions around a step.

    None if no two sessions share a level. `accepted` is how many sessions precede an accepted change, across which
    nothing is compared.
    """
    residuals = _residuals(values, accepted)
    around = {at for step in steps(values, grain, effect) for at in range(step.at - 1, step.at + 4)}
    kept = sorted(abs(each) for at, each in residuals.items() if at not in around)
    if not kept:
        return None
    rank = max(1, int(_COVERED * len(kept) + 0.5))
    return OwnNoise(max(_covering(kept, rank), _LEAST_OWN * grain), _FREEDOM_OF_RESIDUAL * len(kept))


def _residuals(values: Sequence[float], accepted: int) -> dict[int, float]:
    """Return each session's value less the median of up to five before it, in standard deviations of a session."""
    found = {}
    for at in range(1, len(values)):
        before = values[max(accepted if at >= accepted else 0, at - NEAR) : at]
        if before:
            distance = values[at] - statistics.median(before)
            found[at] = distance / math.sqrt(1 + median_variance(len(before)))
    if len(found) < 2 * NEAR:
        return found
    drift = statistics.median(found.values())  # steady creep is not noise
    return {at: each - drift for at, each in found.items()}


def noise_of_runs(values: Sequence[float], grain: float) -> OwnNoise | None:
    """Estimate the noise of sessions from the runs of a single one, which do not show what makes sessions differ.

    None for fewer than two runs.
    """
    if len(values) < 2:
        return None
    deviation = statistics.stdev(values) / math.sqrt(1 - SHARED_IN_SEED)
    return OwnNoise(max(deviation, _LEAST_OWN * grain), (len(values) - 1) / 2)


def estimate(
    own: OwnNoise | None, others: Sequence[OwnNoise], grain: float, within: OwnNoise | None = None
) -> SessionNoise:
    """Estimate the noise of a session from its own series, other series of the environment, and a prior.

    `within` is the standard error of a run's median from its own prompts; the noise of a session cannot be less.
    """
    usual, others = _PRIOR * grain, others if own is not None else ()
    own = own or OwnNoise(usual, 0.0)
    prior, prior_freedom = math.log(usual), _PRIOR_FREEDOM
    if others:
        weight = math.fsum(other.freedom for other in others)
        loud = _upper_quartile([other.deviation**2 for other in others])
        prior = (_PRIOR_FREEDOM * prior + weight * math.log(loud) / 2) / (_PRIOR_FREEDOM + weight)
        prior_freedom = min(max(_LEAST_FREEDOM, _ENOUGH_FREEDOM - own.freedom), _PRIOR_FREEDOM + weight / 2)
    freedom = prior_freedom + own.freedom
    deviation = math.exp((prior_freedom * prior + own.freedom * math.log(own.deviation)) / freedom)
    if within is not None and within.deviation > deviation:
        deviation, freedom = within.deviation, max(freedom, within.freedom)
    return SessionNoise(max(deviation, _LEAST * grain), freedom, len(others))


def _upper_quartile(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=4, method="inclusive")[2] if len(values) > 1 else values[0]
