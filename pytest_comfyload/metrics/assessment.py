"""Assessments: one sentence on whether a value meets its bound, and on whether this many samples can show it.

The value decides whether a check fails; the samples decide whether a pass is more than luck.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from pytest_comfyload.metrics.intervals import Interval
from pytest_comfyload.metrics.units import format_value

__all__ = [
    "COMPARE",
    "FACT",
    "UNSETTLED",
    "Assessment",
    "CheckStatus",
    "Estimate",
    "Inconclusive",
    "Threshold",
    "judge",
    "no_baseline",
]

CheckStatus = Literal["pass", "fail", "unsupported", "inconclusive", "unresolved", "no baseline"]
# The value meets its bound, but the samples cannot show that this is more than luck.
UNSETTLED: tuple[CheckStatus, ...] = ("unsupported", "inconclusive", "unresolved")

COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


@dataclass(frozen=True, slots=True)
class Assessment:
    """The verdict on a claim, and the sentence that explains it.

    `settled_by` is what would settle whether it passes or fails, if anything would. `lower` and `upper` are the ends of
    the value's 90 % interval, infinite if the samples cannot bound it; None for a fact.
    """

    verdict: CheckStatus
    sentence: str
    settled_by: str | None = None
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True, slots=True)
class Threshold:
    """The claim `value op bound` that a test asserts of a metric in this unit, computed from `n` samples."""

    value: float
    op: str
    bound: float
    unit: str
    n: int

    @property
    def caps(self) -> bool:
        """Whether the bound is an upper one."""
        return self.op in ("<", "<=")

    def met_by(self, value: float) -> bool:
        return bool(COMPARE[self.op](value, self.bound))

    def written(self, value: float) -> str:
        return format_value(value, self.unit)

    def __str__(self) -> str:
        """Return `9.8 s < 12 s`: the relation in which value and bound really are."""
        relation = "<" if self.value < self.bound else ">" if self.value > self.bound else "="
        return f"{self.written(self.value)} {relation} {self.written(self.bound)}"


class Inconclusive(NamedTuple):
    """Why a bound that the value meets may still be missed; `few`: this few samples can never settle it."""

    why: str
    settled_by: str | None = None
    few: bool = False


class Estimate:
    """What a value is based on, and the wording of that. Without an interval it is a fact, not an estimate.

    A value that is not `resolved` is doubted regardless of its interval.
    """

    resolved = True

    def __init__(self, interval: Interval | None = None) -> None:
        self._interval = interval

    @property
    def interval(self) -> Interval | None:
        """The two-sided 90 % interval, infinite if the samples cannot bound the value; None for a fact."""
        return self._interval

    def is_fact(self, claim: Threshold) -> bool:
        """Return whether the claim is about a fact; whether a value equals a number always is one."""
        return self.interval is None or claim.op in ("==", "!=")

    def stated(self, claim: Threshold) -> str:
        """Return the relation of value and bound, with which every sentence begins."""
        return str(claim)

    def met(self, claim: Threshold) -> str:
        """Return the wording for a claim that both the value and the interval meet."""
        if self.interval is None or self.is_fact(claim):
            return f"{self.stated(claim)}, as measured"
        return f"{self.stated(claim)}; even {_end(claim, self.interval, far=True)}, is {_side(claim, good=True)}"

    def missed(self, claim: Threshold) -> str:
        """Return the wording for a claim that the value misses."""
        if self.interval is None or self.is_fact(claim):
            return f"{self.stated(claim)}, as measured"
        near = self.interval.lower if claim.caps else self.interval.upper
        if math.isinf(near):
            return (
                f"{self.stated(claim)}; the interval of {claim.n} samples has no {'low' if claim.caps else 'high'} end"
            )
        if claim.met_by(near):
            return f"{self.stated(claim)}, though {_end(claim, self.interval)}, is not"
        return f"{self.stated(claim)}; even {_end(claim, self.interval)}, is {_side(claim)}"

    def doubt(self, claim: Threshold) -> Inconclusive:
        """Return the wording for a claim that the value meets and the interval does not."""
        lower, upper = self.interval or (claim.value, claim.value)
        if math.isinf(upper if claim.caps else lower):
            return Inconclusive(
                f"the interval of {claim.n} samples has no {'high' if claim.caps else 'low'} end", few=True
            )
        return Inconclusive(f"{_end(claim, Interval(lower, upper), far=True)}, is {_side(claim)}")


def _end(claim: Threshold, interval: Interval, far: bool = False) -> str:
    """Return `the low end, 12.6 s`: the end of the interval on the passing side, or the one `far` from it."""
    low = claim.caps != far
    return f"the {'low' if low else 'high'} end, {claim.written(interval.lower if low else interval.upper)}"


def _side(claim: Threshold, good: bool = False) -> str:
    """Return `over` or `under`: the side of the bound on which a claim is missed, or met."""
    return "over" if claim.caps != good else "under"


FACT = Estimate()


class AssessedValue(Protocol):
    """A number that knows its unit, its sample count and what it is based on."""

    unit: str
    n: int
    evidence: Estimate

    def __float__(self) -> float: ...


def judge(metric: AssessedValue, op: str, bound: float) -> Assessment:
    """Assess the claim `metric op bound`."""
    claim, evidence = Threshold(float(metric), op, float(bound), metric.unit, metric.n), metric.evidence
    lower, upper = (None, None) if evidence.is_fact(claim) else evidence.interval or (None, None)
    if not claim.met_by(claim.value):
        return Assessment("fail", _sentence(evidence.missed(claim)), None, lower, upper)
    far = upper if claim.caps else lower
    if evidence.resolved and (far is None or claim.met_by(far)):
        return Assessment("pass", _sentence(evidence.met(claim)), None, lower, upper)
    why, settled_by, few = evidence.doubt(claim)
    sentence = _sentence(f"{evidence.stated(claim)}, but {why}")
    verdict: CheckStatus = "unsupported" if few else "inconclusive" if evidence.resolved else "unresolved"
    return Assessment(verdict, sentence, settled_by, lower, upper)


def no_baseline(why: str) -> Assessment:
    """Assess a claim whose bound is a figure of earlier runs, if there are no such runs."""
    return Assessment("no baseline", _sentence(f"Not compared with a baseline: {why}"))


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."
