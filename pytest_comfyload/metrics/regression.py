"""The rule of the regression gate: whether the runs of a head are worse than the sessions before it.

A session is one pytest session; its value is the median of its runs. Tests reproduce the rule's error rates.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from pytest_comfyload.metrics.session_level import Level, Limit, level_of, level_of_runs, young_level
from pytest_comfyload.metrics.session_noise import OwnNoise, SessionNoise, Step, estimate, noise_of_runs, own_noise
from pytest_comfyload.metrics.spec import Scale
from pytest_comfyload.metrics.units import counted

__all__ = ["FEWEST", "MOST_RERUNS", "NEWEST", "RERUNS", "Comparison", "RegressionVerdict", "SessionHistory", "compare"]

# The most baseline sessions that are used, and the fewest with which a test can fail.
NEWEST, FEWEST = 20, 2
# Runs of a head: fewer than the first number never fail; up to the second number are made if these leave it open.
_RUNS_TO_FAIL, _MOST_RUNS = 3, 5
# Reruns that are made at a time, and altogether.
RERUNS, MOST_RERUNS = 2, _MOST_RUNS - 1
# With fewer baseline sessions, the limit says little about the scenario itself.
_FEW = 5


class RegressionVerdict(StrEnum):
    REGRESSED = "regressed"
    SUSPECTED = "suspected"
    IMPROVED = "improved"
    UNCHANGED = "unchanged"
    INCONCLUSIVE = "inconclusive"
    RECORDING = "recording"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class SessionHistory:
    """The sessions before a head, as values on the `Scale.place` axis, the newest last.

    Args:
        values: One for each session, or for each run if `seeded`.
        accepted: How many sessions precede the last accepted change; only the noise is estimated from them.
        others: The noise of other series in the environment.
        within: The error of a run's value, from its own prompts.
        seeded: Whether the values are runs of a single session.
    """

    values: Sequence[float]
    accepted: int = 0
    others: Sequence[OwnNoise] = ()
    within: OwnNoise | None = None
    seeded: bool = False

    def noise(self, scale: Scale) -> SessionNoise:
        values, grain = self.values[-NEWEST:], scale.grain
        accepted = max(0, self.accepted - len(self.values) + len(values))
        own = noise_of_runs(values, grain) if self.seeded else own_noise(values, grain, scale.least_effect, accepted)
        return estimate(own, self.others, scale.grain, self.within)

    @property
    def current(self) -> Sequence[float]:
        """The values from which a level can be computed."""
        return self.values[self.accepted :][-NEWEST:]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of a comparison. Numbers are in percent or in the metric's unit, nan if unknown.

    Args:
        verdict: The verdict.
        relative: Whether numbers are in percent.
        change: The change from the level.
        lower: The low end of its 90 % interval.
        upper: The high end of its 90 % interval.
        limit: The change beyond which a head is regressed or improved.
        noise: The standard deviation of a session.
        baseline: The number of sessions that could be the level.
        level: The number of sessions that are the level.
        runs: The number of the head's runs.
        step: The step that led to the level: at which of the baseline's sessions, on the `Scale.place` axis.
        young: Whether the step is so recent that the level consists only of the one or two sessions after it.
        rerun: Whether two more runs would make the verdict firmer.
        noisy: Whether the limit comes from the noise, not from the least effect that counts.
        borrowed: The number of other series that the noise is estimated from.
        seeded: Whether the level consists of runs of a single session.
    """

    verdict: RegressionVerdict
    relative: bool
    change: float = math.nan
    lower: float = math.nan
    upper: float = math.nan
    limit: float = math.nan
    noise: float = math.nan
    baseline: int = 0
    level: int = 0
    runs: int = 0
    step: Step | None = None
    young: bool = False
    rerun: bool = False
    noisy: bool = False
    borrowed: int = 0
    seeded: bool = False

    @property
    def fails(self) -> bool:
        return self.verdict is RegressionVerdict.REGRESSED and self.runs >= _RUNS_TO_FAIL and self.baseline >= FEWEST

    def sentence(self, where: str = "", unit: str = "s") -> str:
        """Return the result as a sentence.

        `where` is the hardware that both sides ran on, `unit` that of a difference.
        """
        return _sentence(self, where, "%" if self.relative else unit)


def compare(history: SessionHistory, runs: Sequence[float], scale: Scale | None = None) -> Comparison:
    """Compare the median of a head's runs with the level of the sessions before it.

    Regressed beyond the limit, improved beyond its mirror image; unchanged if a slowdown of the limit would have been
    seen; otherwise inconclusive. A single run is judged again with two more, unless it is unchanged; while it is
    inconclusive, with yet two more. A test fails only with three runs and two baseline sessions.

    `runs` are in the metric's unit; the comparison is inconclusive if one has no place on the scale: nan, +∞, or 0 for
    ratios.
    """
    scale = scale or Scale()
    m, k = len(history.current), len(runs)
    if not runs:
        return Comparison(RegressionVerdict.MISSING, scale.relative, baseline=m)
    if not all(map(scale.has_place, runs)):
        return Comparison(RegressionVerdict.INCONCLUSIVE, scale.relative, baseline=m, runs=k)
    if not m:
        return Comparison(RegressionVerdict.RECORDING, scale.relative, runs=k)
    return _judged(history, statistics.median(map(scale.place, runs)), k, scale)


def _judged(history: SessionHistory, head: float, k: int, scale: Scale) -> Comparison:
    current, noise = history.current, history.noise(scale)
    limit = Limit(noise, scale.least_effect)
    level = level_of_runs(current) if history.seeded else level_of(current, limit, scale.grain)
    young = None if history.seeded else young_level(current, level, limit, head)
    shown = young or level
    verdict = _verdict(head - shown.value, limit, shown, k)
    if len(current) == 2 and abs(current[0] - current[1]) > limit.at(level.variance):
        verdict = RegressionVerdict.RECORDING
    return _comparison(verdict, head - shown.value, limit, shown, scale, history, k, young=young is not None)


def _verdict(distance: float, limit: Limit, level: Level, k: int) -> RegressionVerdict:
    most = limit.at(level.variance)
    if distance > most:
        return RegressionVerdict.REGRESSED if k >= _RUNS_TO_FAIL else RegressionVerdict.SUSPECTED
    if distance < -most:
        return RegressionVerdict.IMPROVED
    seen = distance + limit.reach(level.variance, k) < most
    return RegressionVerdict.UNCHANGED if distance > -most and seen else RegressionVerdict.INCONCLUSIVE


def _comparison(
    verdict: RegressionVerdict,
    distance: float,
    limit: Limit,
    level: Level,
    scale: Scale,
    history: SessionHistory,
    k: int,
    *,
    young: bool,
) -> Comparison:
    reach, most = limit.reach(level.variance, k), limit.at(level.variance)
    lower, upper = sorted((scale.change(distance - reach), scale.change(distance + reach)))
    m = len(history.current)
    return Comparison(
        verdict=verdict,
        relative=scale.relative,
        change=scale.change(distance),
        lower=lower,
        upper=upper,
        limit=_length(most, scale),
        noise=_length(limit.noise.deviation, scale),
        baseline=m,
        level=level.sessions,
        runs=k,
        step=level.step,
        young=young,
        rerun=_is_open(verdict, k),
        noisy=limit.by_noise(level.variance) > limit.effect,
        borrowed=limit.noise.borrowed,
        seeded=history.seeded,
    )


def _is_open(verdict: RegressionVerdict, k: int) -> bool:
    """Return whether two more runs are worth their time."""
    if verdict in (RegressionVerdict.UNCHANGED, RegressionVerdict.RECORDING):
        return False
    return k < _RUNS_TO_FAIL or (verdict is RegressionVerdict.INCONCLUSIVE and k < _MOST_RUNS)


def _length(distance: float, scale: Scale) -> float:
    return 100 * math.expm1(distance) if scale.relative else distance


def _sentence(of: Comparison, where: str, per: str) -> str:
    change, limit = f"{signed(of.change)} {per}", f"{plain(of.limit)} {per}"
    match of.verdict:
        case RegressionVerdict.REGRESSED | RegressionVerdict.IMPROVED:
            return f"{change} ({counted(of.runs, 'run')}); limit {limit}{_limit_from(of)} {_level(of, where, per)}"
        case RegressionVerdict.SUSPECTED:
            more = "two more decide" if of.runs == 1 else "one more decides"
            return f"{change} in {'one run' if of.runs == 1 else 'two runs'}, beyond the limit of {limit}; {more}."
        case RegressionVerdict.UNCHANGED:
            return f"{change}; a slowdown of {limit} would have been seen."
        case RegressionVerdict.INCONCLUSIVE if math.isnan(of.change):
            return "Not compared: a run has no value that can be compared."
        case RegressionVerdict.INCONCLUSIVE:
            return f"{change} ({signed(of.lower)} to {signed(of.upper)}); limit {limit}."
        case RegressionVerdict.RECORDING if of.baseline:
            return f"The {of.baseline} baseline sessions differ by more than the limit of {limit}; one more decides."
        case RegressionVerdict.RECORDING:
            return "No earlier session to compare with; to compare now, run both interleaved: run_ab."
    there = "there is" if of.baseline == 1 else "there are"
    return f"No run; {there} {counted(of.baseline, 'baseline session')}."


def _limit_from(of: Comparison) -> str:
    if not of.noisy:
        return ", the least change that counts."
    if of.baseline < _FEW:
        return f": wide, with {counted(of.baseline, _kind(of))}."
    return ": a clean commit stays below it 998 times in 1,000."


def _level(of: Comparison, where: str, per: str) -> str:
    at = f" on {where}" if where else ""
    known = f"noise {plain(of.noise)} {per}"
    if of.borrowed and of.baseline < _FEW:
        known += f", taken from {counted(of.borrowed, 'other scenario')} too"
    one = " of one session" if of.seeded else ""
    return f"Level: {counted(of.level, 'run' if of.seeded else 'session')}{one}{at}; {known}."


def _kind(of: Comparison) -> str:
    return "baseline run" if of.seeded else "baseline session"


def signed(value: float) -> str:
    """Return a number with its sign: `+11.8`, `−0.5`, `0`."""
    text = plain(abs(value))
    return text if text == "0" else f"{'−' if value < 0 else '+'}{text}"


def plain(value: float) -> str:
    return f"{round(value, 1):g}" if abs(value) >= 1 else f"{round(value, 3):.2g}"
