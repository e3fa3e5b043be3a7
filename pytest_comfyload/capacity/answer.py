"""What a search for a capacity comes to: the largest load that the SLO bears, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pytest_comfyload.metrics.assessment import Estimate, Inconclusive, Threshold
from pytest_comfyload.metrics.intervals import Interval
from pytest_comfyload.metrics.metric import Metric
from pytest_comfyload.result.checks import format_value
from pytest_comfyload.result.load_result import LoadResult

__all__ = ["Capacity", "Limit", "Unconfirmed"]

# queue: waiting makes the SLO fail first. generation: it fails without any waiting, or nothing but the servers' speed
# sets the limit. memory: prompts failed for lack of it. generator: a run was invalid. budget: no time to confirm.
Limit = Literal["queue", "generation", "memory", "generator", "budget"]
_LIMITS: Mapping[Limit, str] = {
    "queue": "the wait in the queue",
    "generation": "the generation time",
    "memory": "the servers' memory",
    "generator": "the load generator",
    "budget": "the time budget",
}


class Unconfirmed(Estimate):
    """Of a capacity that no run has confirmed, or that one has refuted; `remark` says why."""

    resolved = False

    def __init__(self, interval: Interval | None, limit: Limit, remark: str) -> None:
        super().__init__(interval)
        self._limit: Limit = limit
        self._remark = remark

    def missed(self, claim: Threshold) -> str:
        return f"{self.stated(claim)}, {self._unresolved}"

    def doubt(self, claim: Threshold) -> Inconclusive:
        return Inconclusive(self._unresolved, "a larger budget" if self._limit == "budget" else None)

    @property
    def _unresolved(self) -> str:
        return f"unresolved, limited by {_LIMITS[self._limit]}: {self._remark}"


@dataclass(frozen=True, slots=True)
class Capacity:
    """`value` with `lower` and `upper`, in `unit`: prompts per minute under Poisson arrivals, or users.

    Resolved: the model of the queue was confirmed by a run at 80 % of `value`, and the two ends are its 90 % interval.
    A model that a run has refuted claims nothing: then `value` is `lower`, the largest load at which the SLO was seen
    to hold (0: none), and `upper` the smallest at which it was missed, if any, else what the model allows. A comparison
    with one that is not resolved is an SLO check whose verdict is `unresolved`. Where nothing could be measured, it
    raises NoSamples.
    """

    value: Metric
    lower: Metric
    upper: Metric
    limited_by: Limit
    resolved: bool
    slo: str
    remark: str
    runs: tuple[LoadResult, ...]

    @property
    def unit(self) -> str:
        """The unit of the three figures: prompts/min, users or people."""
        return self.value.unit

    def sentence(self) -> str:
        """Say the answer in one or two sentences."""
        if self.value.n == 0:
            return f"Capacity unknown: {self.remark}."
        between = f"{format_value(float(self.lower), '')}–{format_value(float(self.upper), '')}"
        limit = f"limited by {_LIMITS[self.limited_by]}"
        if self.resolved:
            value = format_value(float(self.value), self.unit)
            return f"{self.slo} holds up to {value} ({between}), {limit}: {self.remark}."
        return f"Unresolved, {between} {self.unit} for {self.slo}, {limit}: {self.remark}."

    def __str__(self) -> str:
        return self.sentence()
