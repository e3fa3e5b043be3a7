"""A judgement says in one sentence whether a measured value meets its bound, and whether so few samples can tell.

The value decides what fails; the samples decide whether what it meets is more than luck.
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
# Of a value that meets its bound, though it cannot be told whether that is more than luck.
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
    """`settled_by` is what would tell pass from fail, where anything would. The ends are those of the value's 90 %
    interval, infinite where the samples cannot bound it; None of a fact.
    """

    verdict: CheckStatus
    sentence: str
    settled_by: str | None = None
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True, slots=True)
class Threshold:
    """`value op bound`, as a test asserts it of a metric of this unit, made of `n` samples."""

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
        """`9.8 s < 12 s`: how value and bound really stand to each other."""
        relation = "<" if self.value < self.bound else ">" if self.value > self.bound else "="
        return f"{self.written(self.value)} {relation} {self.written(self.bound)}"


class Inconclusive(NamedTuple):
    """Why a bound that the value meets may be missed all the same; `few`: whatever so few samples show."""

    why: str
    settled_by: str | None = None
    few: bool = False


class Estimate:
    """What a value stands on, and how that is said. Without an interval it is a fact: seen, no estimate of anything.

    A value that is not `resolved` is doubted whatever its interval.
    """

    resolved = True

    def __init__(self, interval: Interval | None = None) -> None:
        self._interval = interval

    @property
    def interval(self) -> Interval | None:
        """90 %, two-sided; infinite where the samples cannot bound the value, None of a fact."""
        return self._interval

    def is_fact(self, claim: Threshold) -> bool:
        """Return whether the claim is about what happened: what shall be equal is, or is not."""
        return self.interval is None or claim.op in ("==", "!=")

    def stated(self, claim: Threshold) -> str:
        """How value and bound stand to each other; every sentence begins so."""
        return str(claim)

    def met(self, claim: Threshold) -> str:
        """Word a claim that value and interval meet."""
        if self.interval is None or self.is_fact(claim):
            return f"{self.stated(claim)}, as measured"
        return f"{self.stated(claim)}; even {_end(claim, self.interval, far=True)}, is {_side(claim, good=True)}"

    def missed(self, claim: Threshold) -> str:
        """Word a claim that the value misses."""
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
        """Word a claim that the value meets, and the interval does not."""
        lower, upper = self.interval or (claim.value, claim.value)
        if math.isinf(upper if claim.caps else lower):
            return Inconclusive(
                f"the interval of {claim.n} samples has no {'high' if claim.caps else 'low'} end", few=True
            )
        return Inconclusive(f"{_end(claim, Interval(lower, upper), far=True)}, is {_side(claim)}")


def _end(claim: Threshold, interval: Interval, far: bool = False) -> str:
    """`the low end, 12.6 s`: the one on the good side, or the one `far` from it."""
    low = claim.caps != far
    return f"the {'low' if low else 'high'} end, {claim.written(interval.lower if low else interval.upper)}"


def _side(claim: Threshold, good: bool = False) -> str:
    """Return where a value is that misses the bound, or meets it."""
    return "over" if claim.caps != good else "under"


FACT = Estimate()


class AssessedValue(Protocol):
    """A number that knows its unit, its sample count and what it stands on."""

    unit: str
    n: int
    evidence: Estimate

    def __float__(self) -> float: ...


def judge(metric: AssessedValue, op: str, bound: float) -> Assessment:
    """Judge `metric op bound`."""
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
    """Assess a claim whose bound is a figure of earlier runs, where there are none."""
    return Assessment("no baseline", _sentence(f"Not compared with a baseline: {why}"))


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."
