"""Intervals of waiting times, from replays of the load with resampled generation times.

Times of prompts that wait for each other are not independent samples; whole replays of the queue are. Generation times
are resampled within workflow, cache class and server. Nothing is replayed before it is needed.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Literal, NamedTuple

from pytest_comfyload.metrics import intervals
from pytest_comfyload.metrics.assessment import Estimate, Inconclusive, Threshold
from pytest_comfyload.metrics.intervals import LEAST_FOR_A_MEAN, UNBOUNDED, Interval, minimum_count
from pytest_comfyload.metrics.load_plan import Pools, Service, Times
from pytest_comfyload.metrics.replay import measured_order, middle, runs_of, statistics_of
from pytest_comfyload.metrics.units import format_value
from pytest_comfyload.result.columns import Columns, collector_paused
from pytest_comfyload.result.counts import is_saturated
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.run_facts import RunFacts
from pytest_comfyload.result.service_times import (
    Submission,
    deviations,
    kinds_of,
    pools,
    services_in,
    submission_of,
)
from pytest_comfyload.result.validity import measurements

__all__ = ["ReplayEstimate", "ReplayModel", "Waited", "reruns_of"]

Waited = Literal["queue_time", "total_time"]
_WAITED: tuple[Waited, ...] = ("queue_time", "total_time")
# Statistics that are read from each rerun at once; None is the mean.
_USUAL: tuple[float | None, ...] = (None, 50, 90, 95, 99)

# Larger loads need fewer reruns, since each of them varies less: 1,000 up to 500 prompts, 100 for 5,000 or more, 59
# above 50,000. The third and the third last of 59 are the 5th and the 95th percentile of what reruns measure;
# `bench_coverage` shows the coverage of such intervals. The number does not depend on the bound, so that an interval is
# the same regardless of what it is compared with.
MOST_RUNS, LEAST_RUNS, PROMPTS = 1000, 100, 500_000
LARGE, RUNS_OF_LARGE = 50_000, 59
# The largest error of a replay of the measured order: as a share of the measured value, and of a mean generation.
TOLERANCE, TOLERANCE_OF_GENERATION = 0.05, 0.01


class _Model(NamedTuple):
    """For each prompt of the plan, its measured service, and the pool that it is resampled from."""

    submission: Submission
    services: Sequence[Service]
    pools: Pools


class ReplayModel:
    """Replays a run from its measured outcomes. The same run always has the same intervals."""

    def __init__(self, facts: RunFacts, outcomes: Sequence[Outcome], *, whole: bool = True) -> None:
        self._facts, self._outcomes, self._whole = facts, outcomes, whole
        # Statistics of the reruns and of the measured order; they are few, and kept.
        self._statistics: dict[tuple[Waited, float | None], list[float]] = {}
        self._measured: dict[tuple[Waited, float | None], float] = {}

    def forget(self) -> None:
        """Drop everything as large as the load; statistics that were already computed are kept."""
        for name in ("_kinds", "_model", "_in_measured_order"):
            self.__dict__.pop(name, None)

    @cached_property
    def is_ramp(self) -> bool:
        """Whether prompts only piled up, so that more of them would lengthen the ramp without adding information."""
        if self._facts.executors == ("burst",) or not self._facts.open_load:
            return self._facts.executors == ("burst",)
        return is_saturated(self._facts, Columns(self._outcomes)["generation_time"])

    @cached_property
    def objection(self) -> str | None:
        """Why no metric of this run can be replayed; None if it can be."""
        return self._model if isinstance(self._model, str) else self._drift

    def misses(self, metric: Waited, q: float | None, measured: float) -> str | None:
        """Return why this metric cannot be replayed: the queue model misses what was measured. None if it does not."""
        replayed = self._in_order(metric, q)
        allowed = max(TOLERANCE * measured, TOLERANCE_OF_GENERATION * self._occupied)
        if replayed == measured or abs(replayed - measured) <= allowed:
            return None
        return f"a replay of the measured order gives {replayed:.3g} s: something else was at work in the queue"

    def interval(self, metric: Waited, q: float | None, measured: float) -> Interval:
        """Return the 5th to 95th percentile, over the reruns, of percentile q, or of the mean over successes (None).

        It is corrected by the error that the model makes for the measured order.
        """
        lower, upper = middle(self._replayed(metric, q))
        in_order = self._in_order(metric, q)
        shift = measured - in_order if math.isfinite(measured) and math.isfinite(in_order) else 0.0
        return Interval(max(0.0, lower + shift), upper + shift)

    def _in_order(self, metric: Waited, q: float | None) -> float:
        if (metric, q) not in self._measured:
            self._measured[metric, q] = statistics_of(getattr(self._in_measured_order, metric), (q,))[0]
        return self._measured[metric, q]

    @cached_property
    def _occupied(self) -> float:
        """Mean seconds for which a prompt occupies its server."""
        assert isinstance(self._model, _Model)
        return statistics.fmean(service.occupied for service in self._model.services)

    @cached_property
    def _in_measured_order(self) -> Times:
        """The times of a replay in which every prompt has its measured service."""
        assert isinstance(self._model, _Model)
        submission = self._model.submission
        return measured_order(submission.plan, self._model.services, len(submission.servers), submission.dispatch)

    @cached_property
    def _model(self) -> _Model | str:
        if not self._whole:
            return "a part of a run cannot be replayed by itself"
        if len(measurements(self._outcomes, allow_cached=self._facts.allow_cached)) < len(self._outcomes):
            return "the others waited less for prompts that came from the server's cache"
        submission = submission_of(self._facts, self._outcomes)
        if isinstance(submission, str):
            return submission
        (services,) = services_in([self._outcomes])
        known = [service for service in services if service is not None]
        if len(known) < len(services):
            return "the server's stamps of some prompts are void"
        order = submission.order
        among = pools(self._kinds, self._outcomes, known, submission.servers, order)
        return _Model(submission, [known[place] for place in order], among)

    @cached_property
    def _kinds(self) -> list[int]:
        return kinds_of(self._outcomes)

    @cached_property
    def _drift(self) -> str | None:
        series = deviations(self._kinds, self._outcomes)
        n = sum(map(len, series))
        alike, limit = intervals.lag1_autocorrelation(series), 2 / math.sqrt(max(n, 1))
        if alike <= limit:
            return None
        return f"generation times drift (lag-1 autocorrelation {alike:.2f} > {limit:.2f})"

    def _replayed(self, metric: Waited, q: float | None) -> list[float]:
        """Return percentile q, or the mean over successes (None), of each rerun."""
        if (metric, q) not in self._statistics:
            qs = _USUAL if q in _USUAL else (q,)
            for times in self._runs():
                for name in _WAITED:
                    for each, value in zip(qs, statistics_of(getattr(times, name), qs), strict=True):
                        self._statistics.setdefault((name, each), []).append(value)
        return self._statistics[metric, q]

    def _runs(self) -> Iterator[Times]:
        """Return the reruns, which are always the same, since the run's seed determines them."""
        assert isinstance(self._model, _Model)
        submission = self._model.submission
        return runs_of(
            submission.plan,
            self._model.pools,
            random.Random(f"replay/{self._facts.seed}"),
            servers=len(submission.servers),
            dispatch=submission.dispatch,
            runs=reruns_of(len(self._outcomes)),
        )


def reruns_of(prompts: int) -> int:
    """Return the number of reruns that the intervals of a load of this size are based on."""
    return RUNS_OF_LARGE if prompts > LARGE else min(MOST_RUNS, max(LEAST_RUNS, PROMPTS // prompts))


class ReplayEstimate(Estimate):
    """Estimate of percentile q of n times, or of their mean (None), for a rerun of this load, not a steady state."""

    def __init__(self, reruns: ReplayModel, metric: Waited, q: float | None, measured: float, n: int) -> None:
        super().__init__()
        self._reruns, self._metric, self._q, self._measured, self._n = reruns, metric, q, measured, n

    @cached_property
    def _objection(self) -> Inconclusive | None:
        """Why there is no interval; None if there is one."""
        least = LEAST_FOR_A_MEAN if self._q is None else minimum_count(1 - self._q / 100)
        if self._n < least:
            return self._too_few(least)
        with collector_paused():
            why = self._reruns.objection or self._reruns.misses(self._metric, self._q, self._measured)
        return None if why is None else Inconclusive(why)

    @cached_property
    def _reached(self) -> Interval:
        if self._objection:
            return UNBOUNDED
        with collector_paused():
            return self._reruns.interval(self._metric, self._q, self._measured)

    @property
    def interval(self) -> Interval:
        return self._reached

    def met(self, claim: Threshold) -> str:
        return super().met(claim) if self.is_fact(claim) else f"{self.stated(claim)}; {self._replay(claim)}"

    def missed(self, claim: Threshold) -> str:
        if self.is_fact(claim):
            return super().missed(claim)
        if self._objection:
            return f"{self.stated(claim)}; {self._objection.why}"
        near = self.interval.lower if claim.caps else self.interval.upper
        return f"{self.stated(claim)}; {self._replay(claim)}" + (
            ", so a rerun may meet it" if claim.met_by(near) else ""
        )

    def doubt(self, claim: Threshold) -> Inconclusive:
        if self._objection:
            return self._objection
        if self._reruns.is_ramp:
            return Inconclusive(f"{self._replay(claim)}; reruns would settle it", "reruns")
        return Inconclusive(f"{self._replay(claim)}; a longer load would settle it", "more prompts")

    def _too_few(self, least: int) -> Inconclusive:
        what = "a mean" if self._q is None else f"P{self._q:g}"
        if self._reruns.is_ramp:
            return Inconclusive(
                f"{self._n} prompts at once are too few for {what}; reruns would settle it", "reruns", few=True
            )
        return Inconclusive(
            f"{self._n} prompts are too few for {what}, which needs {least}", f"{least} prompts", few=True
        )

    def _replay(self, claim: Threshold) -> str:
        lower, upper = self.interval
        return f"replayed: {format_value(lower, '')}–{claim.written(upper)}"
