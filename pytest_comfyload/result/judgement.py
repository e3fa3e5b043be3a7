"""A judgement says in one sentence whether a measured value meets its bound, and whether so few samples can tell.

The value decides what fails; the samples decide whether what it meets is more than luck.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from pytest_comfyload.queueing.replay import Interval
from pytest_comfyload.result.wording import format_value

if TYPE_CHECKING:
    from pytest_comfyload.result.metric import Measure

__all__ = ["FACT", "Bounded", "Claim", "Doubt", "Evidence", "Judgement", "Verdict", "judge", "not_judged"]

Verdict = Literal["pass", "fail", "unsupported", "inconclusive", "invalid", "not reached"]

_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


@dataclass(frozen=True, slots=True)
class Judgement:
    """`settled_by` is what would tell pass from fail, where anything would. The ends are those of the value's 90 %
    interval, infinite where the samples cannot bound it; None of a fact.
    """

    verdict: Verdict
    sentence: str
    settled_by: str | None = None
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """`metric op bound`, as a test asserts it."""

    metric: Measure
    op: str
    bound: float

    @property
    def value(self) -> float:
        return float(self.metric)  # type: ignore[arg-type]

    @property
    def ordered(self) -> bool:
        """Whether it is about more or less; what shall be equal is a fact, or is not."""
        return self.op not in ("==", "!=")

    @property
    def caps(self) -> bool:
        """Whether the bound is an upper one."""
        return self.op in ("<", "<=")

    def met_by(self, value: float) -> bool:
        return _COMPARE[self.op](value, self.bound)

    def written(self, value: float) -> str:
        return format_value(value, self.metric.unit)

    def __str__(self) -> str:
        """`9.8 s < 12 s`: how value and bound really stand to each other."""
        relation = "<" if self.value < self.bound else ">" if self.value > self.bound else "="
        return f"{self.written(self.value)} {relation} {self.written(self.bound)}"


class Doubt(NamedTuple):
    """Why a bound that the value meets may be missed all the same; `few`: whatever so few samples show."""

    why: str
    settled_by: str | None = None
    few: bool = False


class Evidence:
    """What a value stands on, and how that is said. This one is a fact: counted or seen, no estimate of anything."""

    @property
    def interval(self) -> Interval | None:
        """90 %, two-sided; None of a fact."""
        return None

    def stated(self, claim: Claim) -> str:
        return str(claim)

    def met(self, claim: Claim) -> str:
        """Of a claim that value and interval meet."""
        return f"{self.stated(claim)}, as measured"

    def missed(self, claim: Claim) -> str:
        """Of a claim that the value misses."""
        return f"{self.stated(claim)}, as measured"

    def doubt(self, claim: Claim) -> Doubt:
        """Of a claim that the value meets, and the interval does not."""
        raise NotImplementedError  # a fact leaves none


class Bounded(Evidence):
    """A value with an interval, whoever made it."""

    def __init__(self, interval: Interval) -> None:
        self._interval = interval

    @property
    def interval(self) -> Interval:
        return self._interval

    def met(self, claim: Claim) -> str:
        end, name = self._far(claim)
        return f"{self.stated(claim)}; so is the {name} end, {claim.written(end)}"

    def missed(self, claim: Claim) -> str:
        end, name, side = (self.interval.lower, "low", "over") if claim.caps else (self.interval.upper, "high", "under")
        if math.isinf(end):
            return f"{self.stated(claim)}; {claim.metric.n} samples give no {name} end"
        if claim.met_by(end):
            return f"{self.stated(claim)}, though the {name} end, {claim.written(end)}, is not"
        return f"{self.stated(claim)}; even the {name} end, {claim.written(end)}, is {side}"

    def doubt(self, claim: Claim) -> Doubt:
        end, name = self._far(claim)
        if math.isinf(end):
            return Doubt(f"{claim.metric.n} samples give no {name} end", few=True)
        return Doubt(f"the {name} end, {claim.written(end)}, is not")

    def _far(self, claim: Claim) -> tuple[float, str]:
        """The end on the bound's side."""
        return (self.interval.upper, "high") if claim.caps else (self.interval.lower, "low")


FACT = Evidence()


def judge(metric: Measure, op: str, bound: float) -> Judgement:
    """Of `metric op bound`."""
    claim, evidence = Claim(metric, op, float(bound)), metric.evidence
    met, interval = claim.met_by(claim.value), evidence.interval
    if interval is None:
        return Judgement("pass" if met else "fail", _sentence((evidence.met if met else evidence.missed)(claim)))
    lower, upper = interval
    if not met:
        return Judgement("fail", _sentence(evidence.missed(claim)), None, lower, upper)
    if not claim.ordered or claim.met_by(upper if claim.caps else lower):
        return Judgement("pass", _sentence(evidence.met(claim)), None, lower, upper)
    why, settled_by, few = evidence.doubt(claim)
    sentence = _sentence(f"{evidence.stated(claim)}, but {why}")
    return Judgement("unsupported" if few else "inconclusive", sentence, settled_by, lower, upper)


def not_judged(reason: str) -> Judgement:
    """Of any claim on a run that is invalid."""
    return Judgement("invalid", _sentence(f"Not judged: {reason}"))


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."
