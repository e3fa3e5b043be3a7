"""Whether a commit made a metric worse: the run is the unit, and the limit comes from the noise of earlier runs.

The rule and its error rates are in the docstring of `compare`; tests reproduce them by simulation.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from pytest_comfyload.result.student import t_quantile

__all__ = ["AMPLE", "FEWEST", "NEWEST", "Comparison", "Scale", "Verdict", "compare"]

# Baseline runs: no verdict below FEWEST, none that fails below AMPLE, no more than NEWEST are looked at.
FEWEST, AMPLE, NEWEST = 5, 10, 20
# The variance of a median of m values is about 1.57/m of theirs: π/2.
_OF_MEDIAN = 1.57
_LEAST_NOISE = 0.01
_LEAST_EFFECT = math.log(1.05)
_NOISES = 3.0


class Verdict(StrEnum):
    REGRESSED = "regressed"
    IMPROVED = "improved"
    UNCHANGED = "unchanged"
    INCONCLUSIVE = "inconclusive"
    RECORDING = "recording"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Scale:
    """How runs differ in a metric.

    `floor` None: by ratio, for what is never zero; else by difference, `floor` being the least that matters, in the
    metric's unit. `higher_is_better` turns the direction round.
    """

    floor: float | None = None
    higher_is_better: bool = False

    @property
    def relative(self) -> bool:
        return self.floor is None

    @property
    def least_noise(self) -> float:
        return _LEAST_NOISE if self.floor is None else self.floor / _NOISES

    @property
    def least_effect(self) -> float:
        return _LEAST_EFFECT if self.floor is None else self.floor

    def place(self, value: float) -> float:
        """A run's value on the line on which runs are compared: greater is worse."""
        placed = math.log(value) if self.relative else value
        return -placed if self.higher_is_better else placed

    def change(self, distance: float) -> float:
        """What a distance on that line is to a person: percent, or the metric's unit; its sign is the metric's own."""
        distance = -distance if self.higher_is_better else distance
        return 100 * math.expm1(distance) if self.relative else distance


@dataclass(frozen=True, slots=True)
class Comparison:
    """`change`, `lower`, `upper` (90 %), `limit`: percent, or the metric's unit on an absolute scale; nan if unknown.

    `baseline` and `runs` count the runs on either side. `rerun`: two more runs would make the verdict firmer.
    `noisy`: the limit comes from the noise, not from the least effect that counts.
    """

    verdict: Verdict
    relative: bool
    change: float
    lower: float
    upper: float
    limit: float
    baseline: int
    runs: int
    rerun: bool = False
    noisy: bool = False

    def sentence(self, where: str = "", unit: str = "s") -> str:
        """For a person; `where` is the hardware that both sides ran on, `unit` that of a difference."""
        per = "%" if self.relative else unit
        change, limit = f"{_signed(self.change)} {per}", f"{_plain(self.limit)} {per}"
        runs = f"{self.runs} run{'' if self.runs == 1 else 's'}"
        among = f"{self.baseline} baseline runs" + (f", {where}" if where else "")
        match self.verdict:
            case Verdict.REGRESSED | Verdict.IMPROVED:
                source = "3 × noise" if self.noisy else "the least that counts"
                shown = "" if self.baseline >= AMPLE else f"; shown only: {AMPLE} baseline runs are needed to fail"
                return f"{change} ({runs}); limit {limit} = {source}; {among}{shown}."
            case Verdict.UNCHANGED:
                return f"{change}; a slowdown of {limit} would have been seen."
            case Verdict.INCONCLUSIVE if math.isnan(self.change):
                return "No comparison: a run has no value that can be compared."
            case Verdict.INCONCLUSIVE:
                return f"{change} ({_signed(self.lower)} to {_signed(self.upper)}); limit {limit}."
            case Verdict.RECORDING:
                return f"{self.baseline} of {AMPLE} baseline runs; to compare now, run both interleaved: run_ab."
        return f"No run; there are {self.baseline} baseline runs."

    @property
    def fails(self) -> bool:
        """With few baseline runs a regression is shown, and fails nothing."""
        return self.verdict is Verdict.REGRESSED and self.baseline >= AMPLE


def compare(baseline: Sequence[float], runs: Sequence[float], scale: Scale | None = None) -> Comparison:
    """One run's value, or those of it and its two reruns, against the values of earlier runs, the newest last.

    With x on the scale, s the deviation of the m ≤ 20 newest earlier runs (1 % at least) and E = max(ln 1.05, 3s):
    d is the mean of the k runs less the median of the earlier ones. Regressed if d > E and
    d > t(0.99, m−1)·s·√(1.57/m + 1/k); improved is its mirror image; unchanged if d > −E and
    d + t(0.95, m−1)·s·√(1.57/m + 1/k) < E, where a slowdown of E would have been seen; else inconclusive.

    A single run with |d| > E/2 wants two reruns: at 2 % noise and 10 earlier runs that leaves 0.05 % false alarms per
    commit of 8 scenarios, and finds +10 % in 97 of 100.

    A value that has no place on the scale (nan, +∞, or 0 where ratios count) makes the comparison inconclusive.
    """
    scale = scale or Scale()
    newest = [value for value in baseline if _has_place(value, scale)][-NEWEST:]
    if not runs:
        return _unknown(Verdict.MISSING, scale, len(newest), 0)
    if len(newest) < FEWEST:
        return _unknown(Verdict.RECORDING, scale, len(newest), len(runs))
    if not all(_has_place(value, scale) for value in runs):
        return _unknown(Verdict.INCONCLUSIVE, scale, len(newest), len(runs))
    return _judged([scale.place(value) for value in newest], [scale.place(value) for value in runs], scale)


def _judged(earlier: Sequence[float], now: Sequence[float], scale: Scale) -> Comparison:
    m, k = len(earlier), len(now)
    noise = max(statistics.stdev(earlier), scale.least_noise)
    limit = max(scale.least_effect, _NOISES * noise)
    distance = statistics.fmean(now) - statistics.median(earlier)
    error = noise * math.sqrt(_OF_MEDIAN / m + 1 / k)
    reach = t_quantile(0.95, m - 1) * error
    lower, upper = sorted((scale.change(distance - reach), scale.change(distance + reach)))
    return Comparison(
        verdict=_verdict(distance, limit, t_quantile(0.99, m - 1) * error, reach),
        relative=scale.relative,
        change=scale.change(distance),
        lower=lower,
        upper=upper,
        limit=100 * math.expm1(limit) if scale.relative else limit,
        baseline=m,
        runs=k,
        rerun=k < 3 and abs(distance) > limit / 2,
        noisy=_NOISES * noise > scale.least_effect,
    )


def _verdict(distance: float, limit: float, surely: float, reach: float) -> Verdict:
    if abs(distance) > limit and abs(distance) > surely:
        return Verdict.REGRESSED if distance > 0 else Verdict.IMPROVED
    return Verdict.UNCHANGED if -limit < distance < limit - reach else Verdict.INCONCLUSIVE


def _has_place(value: float, scale: Scale) -> bool:
    return math.isfinite(value) and (value > 0 or not scale.relative)


def _signed(value: float) -> str:
    """`+11.8`, `−0.5`, `0`."""
    text = _plain(abs(value))
    return text if text == "0" else f"{'−' if value < 0 else '+'}{text}"


def _plain(value: float) -> str:
    return f"{round(value, 1):g}" if abs(value) >= 1 else f"{round(value, 3):.2g}"


def _unknown(verdict: Verdict, scale: Scale, baseline: int, runs: int) -> Comparison:
    return Comparison(verdict, scale.relative, math.nan, math.nan, math.nan, math.nan, baseline, runs)
