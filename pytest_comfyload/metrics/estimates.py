"""What a measured value is based on: ranks, counts or averages of independent samples."""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pytest_comfyload.metrics import intervals
from pytest_comfyload.metrics.assessment import Estimate, Inconclusive
from pytest_comfyload.metrics.intervals import Interval
from pytest_comfyload.metrics.units import counted

if TYPE_CHECKING:
    from pytest_comfyload.metrics.assessment import Threshold

__all__ = ["MeanEstimate", "PercentileEstimate", "ProportionEstimate", "ScheduledRate"]

# Beyond this number, more samples are not a practical answer.
MOST_PROMPTS = 20_000


class PercentileEstimate(Estimate):
    """A percentile below 100 of sorted values, after which the failed ones follow, which are worse than any value."""

    def __init__(self, values: Sequence[float], failed: int, q: float) -> None:
        self._values, self._n, self._q = values, len(values) + failed, q
        lower, upper = intervals.percentile_ranks(self._n, q)
        super().__init__(Interval(-math.inf if lower == 0 else self._at(lower), self._at(upper)))

    def stated(self, claim: Threshold) -> str:
        failed = self._n - len(self._values)
        return f"{claim}, for {failed} of {self._n} failed" if math.isinf(claim.value) else str(claim)

    def met(self, claim: Threshold) -> str:
        if self.is_fact(claim):
            return super().met(claim)
        share, side = (self._q, "under") if claim.caps else (100 - self._q, "over")
        beyond = f"{self._misses(claim) or 'none'} of {self._n} {_beyond(claim)}"
        sure = f"at least {share:g} % are {side} {claim.written(claim.bound)} (95 % confidence)"
        return f"{claim}: {beyond}; {sure}"

    def doubt(self, claim: Threshold) -> Inconclusive:
        misses, allowed = self._misses(claim), 1 - self._q / 100 if claim.caps else self._q / 100
        least = intervals.minimum_count(allowed)
        if self._n < least:
            return Inconclusive(self._too_few(claim, misses, least), f"{least} clean prompts", few=True)
        over = f"{misses} of {self._n} {'was' if misses == 1 else 'were'} {_beyond(claim)}"
        return _by_more(over, intervals.prompts_to_settle(misses, self._n, allowed))

    def _too_few(self, claim: Threshold, misses: int, least: int) -> str:
        prompts = counted(self._n, "prompt")
        if misses:
            prompts += f", {misses} of them {_beyond(claim)},"
        missing = 100 * intervals.share_interval(misses, self._n).upper
        supported = math.floor(100 - missing) if claim.caps else math.ceil(missing)
        support = "supports" if self._n == 1 else "support"
        return f"{prompts} {support} P{supported} at most; P{self._q:g} needs {least} without a miss"

    def _misses(self, claim: Threshold) -> int:
        """Return how many are on the wrong side of the bound, or at the bound if that is not allowed."""
        at_bound = bisect.bisect_left if claim.op in ("<", ">=") else bisect.bisect_right
        good_or_bad = at_bound(self._values, claim.bound)
        return self._n - good_or_bad if claim.caps else good_or_bad

    def _at(self, rank: int) -> float:
        return self._values[rank - 1] if rank <= len(self._values) else math.inf


class ProportionEstimate(Estimate):
    """The percentage of prompts that did what `did` says; `else_` is what the others are doing."""

    def __init__(self, hits: int, n: int, did: str, else_: str) -> None:
        self._hits, self._n, self._did, self._else = hits, n, did, else_

        lower, upper = intervals.share_interval(hits, n)
        super().__init__(Interval(100 * lower, 100 * upper))

    def is_fact(self, claim: Threshold) -> bool:
        """Return whether the claim is a fact. "All" or "none" is one: no sample can show it for prompts to come."""
        return super().is_fact(claim) or claim.bound in (0, 100)

    def stated(self, claim: Threshold) -> str:
        stated = f"{self._hits} of {self._n} {self._did}"
        return stated if claim.met_by(claim.value) else f"{stated}: {claim}"

    def met(self, claim: Threshold) -> str:
        if self.is_fact(claim):
            return f"{self.stated(claim)}; {self._not_excluded}" if self._hits == self._n else self.stated(claim)
        end = "at most" if claim.caps else "at least"
        return f"{self.stated(claim)}; {end} {claim.bound:g} % do (95 % confidence)"

    def missed(self, claim: Threshold) -> str:
        return self.stated(claim) if self.is_fact(claim) else super().missed(claim)

    def doubt(self, claim: Threshold) -> Inconclusive:
        misses, allowed = self._n - self._hits, 1 - claim.bound / 100
        if claim.caps:
            misses, allowed = self._hits, claim.bound / 100
        least = intervals.minimum_count(allowed)
        if self._n < least:
            return Inconclusive(self._too_few(claim, least), f"{least} clean prompts", few=True)
        return _by_more(self._not_excluded, intervals.prompts_to_settle(misses, self._n, allowed))

    def _too_few(self, claim: Threshold, least: int) -> str:
        lower, upper = intervals.share_interval(self._hits, self._n)
        supported = math.ceil(100 * upper) if claim.caps else math.floor(100 * lower)
        return f"that many support {supported} % at most; {claim.bound:g} % needs {least} without a miss"

    @property
    def _not_excluded(self) -> str:
        missing = 100 * (1 - intervals.share_interval(self._hits, self._n).lower)
        written = f"{missing:.0f}" if missing >= 10 else f"{missing:.2g}"
        return f"up to {written} % {self._else} cannot be excluded"


class MeanEstimate(Estimate):
    """A mean of independent values, or something proportional to it; fewer than 30 values do not bound it.

    `ends` computes the interval, which is never needed for most figures.
    """

    def __init__(self, ends: Callable[[], Interval]) -> None:
        super().__init__()
        self._ends = functools.cache(ends)

    @property
    def interval(self) -> Interval:
        return self._ends()

    def doubt(self, claim: Threshold) -> Inconclusive:
        n, end = claim.n, self.interval.upper if claim.caps else self.interval.lower
        if math.isinf(end):
            least = intervals.LEAST_FOR_A_MEAN
            return Inconclusive(f"a mean needs {least} prompts; there are {n}", f"{least} prompts", few=True)
        # The width of the interval shrinks with the square root of the number of prompts.
        room = abs(claim.bound - claim.value)
        enough = n * ((end - claim.value) / room) ** 2 if room else math.inf
        return _by_more(super().doubt(claim).why, math.ceil(enough) if enough < MOST_PROMPTS else None)


class ScheduledRate(Estimate):
    """The throughput of an open load that the servers keep up with."""

    def met(self, claim: Threshold) -> str:
        return f"{claim}; below saturation an open load measures its schedule, not the server"

    missed = met


def _beyond(claim: Threshold) -> str:
    return "over" if claim.caps else "under"


def _by_more(why: str, prompts: int | None) -> Inconclusive:
    if prompts is None:
        return Inconclusive(f"{why}; more prompts will not settle this")
    about = f"about {_two_digits(prompts)} prompts"
    return Inconclusive(f"{why}; {about} would settle it", about)


def _two_digits(count: int) -> int:
    return round(count, 2 - len(str(count)))
