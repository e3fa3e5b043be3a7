"""What a time that prompts wait for each other stands on: the reruns of its load."""

from __future__ import annotations

from functools import cached_property

from pytest_comfyload.metrics.assessment import Claim, Doubt, Evidence
from pytest_comfyload.metrics.intervals import LEAST_FOR_A_MEAN, UNBOUNDED, minimum_count
from pytest_comfyload.metrics.replay import Interval
from pytest_comfyload.metrics.units import format_value
from pytest_comfyload.result.reruns import Reruns, Waited

__all__ = ["Replayed"]


class Replayed(Evidence):
    """Percentile q of n times, or their mean (None). It speaks of a rerun of this load, not of a steady state."""

    def __init__(self, reruns: Reruns, metric: Waited, q: float | None, measured: float, n: int) -> None:
        super().__init__()
        self._reruns, self._metric, self._q, self._measured, self._n = reruns, metric, q, measured, n

    @cached_property
    def _objection(self) -> Doubt | None:
        """Why there is no interval."""
        least = LEAST_FOR_A_MEAN if self._q is None else minimum_count(1 - self._q / 100)
        if self._n < least:
            return self._too_few(least)
        why = self._reruns.objection or self._reruns.misses(self._metric, self._q, self._measured)
        return None if why is None else Doubt(why)

    @cached_property
    def _reached(self) -> Interval:
        return UNBOUNDED if self._objection else self._reruns.interval(self._metric, self._q, self._measured)

    @property
    def interval(self) -> Interval:
        return self._reached

    def met(self, claim: Claim) -> str:
        return super().met(claim) if self.is_fact(claim) else f"{self.stated(claim)}; {self._replay(claim)}"

    def missed(self, claim: Claim) -> str:
        if self.is_fact(claim):
            return super().missed(claim)
        if self._objection:
            return f"{self.stated(claim)}; {self._objection.why}"
        near = self.interval.lower if claim.caps else self.interval.upper
        return f"{self.stated(claim)}; {self._replay(claim)}" + (
            ", so a rerun may meet it" if claim.met_by(near) else ""
        )

    def doubt(self, claim: Claim) -> Doubt:
        if self._objection:
            return self._objection
        if self._reruns.is_ramp:
            return Doubt(f"{self._replay(claim)}; reruns would settle it", "reruns")
        return Doubt(f"{self._replay(claim)}; a longer load would settle it", "more prompts")

    def _too_few(self, least: int) -> Doubt:
        what = "a mean" if self._q is None else f"P{self._q:g}"
        if self._reruns.is_ramp:
            return Doubt(
                f"{self._n} prompts at once are too few for {what}; reruns would settle it", "reruns", few=True
            )
        return Doubt(f"{self._n} prompts are too few for {what}, which takes {least}", f"{least} prompts", few=True)

    def _replay(self, claim: Claim) -> str:
        lower, upper = self.interval
        return f"replayed: {format_value(lower, '')}–{claim.written(upper)}"
