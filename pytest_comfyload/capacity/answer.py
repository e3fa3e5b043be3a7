"""The result of a capacity search: the largest load at which the SLO is met, and how certain that is."""

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

# queue: waiting breaks the SLO first. generation: the SLO is missed without any waiting, or only the servers' speed
# sets the limit. memory: prompts ran out of memory. generator: a run was invalid. budget: no time was left to confirm.
Limit = Literal["queue", "generation", "memory", "generator", "budget"]
_LIMITS: Mapping[Limit, str] = {
    "queue": "the wait in the queue",
    "generation": "the generation time",
    "memory": "the servers' memory",
    "generator": "the load generator",
    "budget": "the time budget",
}


class Unconfirmed(Estimate):
    """The evidence for a capacity that no run has confirmed, or that a run has refuted; `remark` says why."""

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
    """The largest load at which an SLO is met: `value`, with `lower` and `upper`.

    They are in `unit`: prompts per minute under Poisson arrivals, else users or people.

    Resolved: a run at 80 % of `value` confirmed the queue model, and `lower` and `upper` are its 90 % interval. A value
    of 0 is resolved without such a run: the SLO is missed even without a queue.

    Once a run has refuted the model, only measured loads count: `value` is then `lower`, the largest load at which the
    SLO was met (0: none), and `upper` is the smallest load at which it was missed, if any, else what the model allows.

    Comparing a capacity that is not resolved is an SLO check whose verdict is `unresolved`. If nothing could be
    measured, comparing it raises NoSamples.
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
        """Unit of the three figures, which is prompts/min, users or people."""
        return self.value.unit

    def sentence(self) -> str:
        """Return the answer in one or two sentences."""
        if self.value.n == 0:
            return f"Capacity unknown: {self.remark}."
        between = f"{format_value(float(self.lower), '')}–{format_value(float(self.upper), '')}"
        limit = f"limited by {_LIMITS[self.limited_by]}"
        if self.resolved:
            value = format_value(float(self.value), self.unit)
            return f"{self.slo} is met up to {value} ({between}), {limit}: {self.remark}."
        return f"Unresolved, {between} {self.unit} for {self.slo}, {limit}: {self.remark}."

    def __str__(self) -> str:
        return self.sentence()
