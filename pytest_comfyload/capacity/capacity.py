"""What a capacity search found: the largest load whose SLO holds, how sure that is, and what stands in its way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pytest_comfyload.result.checks import format_value
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.metric import Metric

__all__ = ["Capacity", "Limit"]

# queue: waiting makes the SLO fail first. generation: it fails without any waiting, or nothing but the servers' speed
# sets the limit. memory: prompts failed for want of it. generator: a run was invalid. budget: no time to confirm.
Limit = Literal["queue", "generation", "memory", "generator", "budget"]


@dataclass(frozen=True, slots=True)
class Capacity:
    """`value` with `lower` and `upper`, in `unit`: prompts per minute under Poisson arrivals, or users.

    Resolved: the model of the queue was confirmed by a run at 80 % of `value`, and the two ends are its 90 % interval.
    A model that a run has refuted claims nothing: then `value` is `lower`, the largest load at which the SLO was seen
    to hold (0: none), and `upper` the smallest at which it was missed, if any, else what the model allows. Where
    nothing could be measured, comparing raises NoSamples.
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
        return self.value.unit

    def sentence(self) -> str:
        """One sentence or two that a person understands."""
        if self.value.n == 0:
            return f"Capacity unknown: {self.remark}."
        between = f"{format_value(float(self.lower), '')}–{format_value(float(self.upper), '')}"
        if self.resolved:
            return f"{self.slo} holds up to {format_value(float(self.value), self.unit)} ({between}): {self.remark}."
        return f"Unresolved, {between} {self.unit} for {self.slo}: {self.remark}."

    def __str__(self) -> str:
        return self.sentence()
