"""The metrics of one load run, computed only from the outcomes in the measured window."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property

from pytest_comfyload.metrics import intervals
from pytest_comfyload.metrics.assessment import Estimate
from pytest_comfyload.metrics.distribution import Distribution
from pytest_comfyload.metrics.estimates import MeanEstimate, ProportionEstimate, ScheduledRate
from pytest_comfyload.metrics.intervals import Interval
from pytest_comfyload.metrics.metric import Count, Metric
from pytest_comfyload.result import validity
from pytest_comfyload.result.columns import Columns, Timed
from pytest_comfyload.result.counts import (
    ByClass,
    ErrorCounts,
    Executions,
    Goodput,
    executed,
    in_time,
    is_saturated,
    parse_bounds,
)
from pytest_comfyload.result.measured_run import MeasuredRun
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.replay_estimate import ReplayEstimate, ReplayModel, Waited

__all__ = ["Measurements"]


class Measurements(MeasuredRun):
    """Every metric of a run, or of a part of one. Times are in seconds, percentages 0–100, throughputs per minute."""

    # --- times ---

    @cached_property
    def send_lag(self) -> Distribution:
        """Wall seconds from the intended start of a prompt until it was sent, a delay caused by the generator."""
        return self._phase("send_lag")

    @cached_property
    def generator_lag(self) -> Distribution:
        """Wall seconds that the generator added to total_time, at most, because its event loop was busy."""
        return self._phase("generator_lag")

    @cached_property
    def submit_time(self) -> Distribution:
        """Seconds from sending a prompt to its acceptance by the server."""
        return self._phase("submit_time")

    @cached_property
    def queue_time(self) -> Distribution:
        """Seconds from acceptance to execution_start; an accepted prompt that never started counts as +∞."""
        accepted = zip(self._measured["submit_time"], self._measured["queue_time"], strict=True)
        stuck = sum(1 for submitted, queued in accepted if submitted is not None and queued is None)
        return self._waited("queue_time", self._measured.timed("queue_time"), stuck)

    @cached_property
    def generation_time(self) -> Distribution:
        """Seconds from execution_start to execution_success, by the server's timestamps, for prompts that started.

        A prompt that started and then failed counts as +∞.
        """
        started, timed = self._measured["started"], self._good.timed("generation_time")
        failed = len(started) - started.count(None) - len(timed.values)
        return Distribution.over_time(self._named("generation_time"), *timed, failed)

    @cached_property
    def delivery_time(self) -> Distribution:
        """Seconds from execution_success until the client knew of it."""
        return self._phase("delivery_time")

    @cached_property
    def fetch_time(self) -> Distribution:
        """Seconds to download a prompt's outputs."""
        return self._phase("fetch_time")

    @cached_property
    def total_time(self) -> Distribution:
        """Seconds from the intended start until the outputs were downloaded; every failure counts as +∞."""
        timed = self._good.timed("total_time")
        return self._waited("total_time", timed, len(self.measured) - len(timed.values))

    @cached_property
    def cold_start(self) -> Distribution:
        """Wall seconds from the start of a launched server's process until it had executed a first prompt."""
        return Distribution(self._named("cold_start"), self.facts.cold_starts)

    # --- times inside nodes, of successful prompts ---

    @cached_property
    def model_load_time(self) -> Distribution:
        """Seconds per prompt in loaders, and in samplers before their first step; 0 if all models were loaded."""
        return self._inside("model_load_time")

    @cached_property
    def sampling_time(self) -> Distribution:
        """Seconds per prompt in samplers, counted from their first step, for prompts that have one."""
        return self._inside("sampling_time")

    @cached_property
    def decode_time(self) -> Distribution:
        """Seconds per prompt in VAE decoders, for prompts that have one."""
        return self._inside("decode_time")

    @cached_property
    def save_time(self) -> Distribution:
        """Seconds per prompt in nodes that save or preview, for prompts that have one."""
        return self._inside("save_time")

    @cached_property
    def node_time(self) -> ByClass:
        """Seconds per executed node, by node class, as in `load.node_time["KSampler"].p95`."""
        return ByClass(self._named("node_time"), "s", self._good.nodes.node_time)

    @cached_property
    def steps_per_second(self) -> ByClass:
        """Progress steps per second of nodes that report them, by node class."""
        return ByClass(self._named("steps_per_second"), "it/s", self._good.nodes.steps_per_second)

    # --- counts and rates ---

    @property
    def success_rate(self) -> Metric:
        """Percent of the submitted prompts that succeeded."""
        succeeded = len(self._columns.succeeded)
        return self._share("success_rate", succeeded, len(self.outcomes), "succeeded", "failing")

    @property
    def errors(self) -> ErrorCounts:
        """Number of prompts that failed, by kind, as in `load.errors["timeout"]`; an unknown kind raises UsageError."""
        return ErrorCounts(self._named("errors"), self.accounting.by_status, len(self.outcomes))

    @property
    def oom_errors(self) -> Count:
        """Number of prompts that failed because the server was out of memory."""
        return Count(self.errors["oom"], self._named("oom_errors"), len(self.outcomes))

    @property
    def timeouts(self) -> Count:
        """Number of prompts that waited or executed for longer than the scenario allows."""
        return Count(self.errors["timeout"], self._named("timeouts"), len(self.outcomes))

    @property
    def cached(self) -> Count:
        """Number of prompts whose work came from the server's cache, in whole or in part.

        They count in `success_rate` and in the counts. Unless allow_cached=True, they are left out of throughput,
        goodput, energy per image and of all times but `send_lag` and `submit_time`.
        """
        hits = len(self._columns.succeeded) - len(validity.measurements(self._columns.succeeded, allow_cached=False))
        return Count(hits, self._named("cached"), len(self.outcomes))

    @property
    def stalled(self) -> Count:
        """Number of prompts that were in progress while the generator stalled for longer than `max_send_lag`."""
        stalled = sum([outcome.stalled for outcome in self.outcomes])
        return Count(stalled, self._named("stalled"), len(self.outcomes))

    @property
    def void(self) -> Count:
        """Number of prompts with impossible server timestamps; only the client's own times of them are known."""
        return Count(sum([outcome.void for outcome in self.outcomes]), self._named("void"), len(self.outcomes))

    @property
    def dropped(self) -> Count:
        """Number of arrivals of an open load that found no free user; a closed load has none to drop."""
        return Count(
            self.accounting.dropped, self._named("dropped"), self.accounting.intended if self.facts.open_load else 0
        )

    @property
    def cached_classes(self) -> Mapping[str, int]:
        """Number of successful prompts, by node class, in which the class was cached and no node of it ran."""
        return validity.cached_in(self._succeeded.work)

    @property
    def always_ran(self) -> tuple[str, ...]:
        """The node classes that ran in every successful prompt."""
        return validity.always_ran(self._succeeded.work)

    @property
    def executions(self) -> Executions:
        """The number of prompts in which 0, 1, 2, … nodes of a class were executed, by workflow and node class."""
        return executed(self._good.work, self.facts.nodes)

    @property
    def silent_ooms(self) -> Count:
        """Number of retries for lack of memory that only the servers' logs show; no samples if no log can be read."""
        retries = self.facts.silent_ooms
        return Count(retries or 0, self._named("silent_ooms"), 0 if retries is None else len(self.outcomes))

    @property
    def throughput(self) -> Metric:
        """Files of any kind delivered per minute by prompts that ended in the window; `.unit` says which kind."""
        return self._per_minute("throughput", f"{self.delivers}/min", lambda outcome: len(outcome.results))

    @property
    def blank_outputs(self) -> Count:
        """Number of pictures among the results in which every channel is constant (of animations, in every frame)."""
        blank = sum([len(outcome.blank) for outcome in self.outcomes if any(file.blank for file in outcome.outputs)])
        return Count(blank, self._named("blank_outputs"), len(self.outcomes))

    @property
    def prompt_throughput(self) -> Metric:
        """Successful prompts per minute that ended in the window."""
        return self._per_minute("prompt_throughput", "prompts/min", lambda outcome: 1)

    def goodput(self, **bounds: float | str) -> Goodput:
        """Return the prompts that succeeded within all bounds, in percent (`.share`) and per minute (`.rate`).

        Bounds are in seconds, by the name of the time: `load.goodput(total_time=30).share > 95`.
        Raises: UsageError for a time that does not exist, or a bound that is not a positive duration.
        """
        within = parse_bounds(bounds)
        hits = sum(1 for outcome in self.measured if in_time(outcome, within))
        name = f"goodput({', '.join(f'{time}={bound:g}' for time, bound in within.items())})"
        share = self._share(f"{name}.share", hits, len(self.measured), "in time", "being late")
        rate = self._per_minute(f"{name}.rate", "prompts/min", lambda outcome: int(in_time(outcome, within)))
        return Goodput(share, rate)

    def _share(self, name: str, hits: int, n: int, did: str, else_: str) -> Metric:
        share = 100 * hits / n if n else math.nan
        return Metric(share, self._named(name), "%", n, evidence=ProportionEstimate(hits, n, did, else_))

    def _per_minute(self, name: str, unit: str, counted: Callable[[Outcome], int]) -> Metric:
        count = sum(counted(outcome) for outcome in self._ended_in_window)
        rate = 60 * count / self.window if self.window > 0 else math.nan
        return Metric(rate, self._named(name), unit, len(self.measured), evidence=self._pace(rate, counted))

    def _pace(self, rate: float, counted: Callable[[Outcome], int]) -> Estimate:
        """Return how certain a throughput is: as the generation times, unless no prompt waits for the servers."""
        if self.facts.open_load and not is_saturated(self.facts, self._columns["generation_time"]):
            return ScheduledRate()
        return MeanEstimate(lambda: self._rate_interval(rate, counted))

    def _rate_interval(self, rate: float, counted: Callable[[Outcome], int]) -> Interval:
        pairs = [
            (counted(outcome) if outcome.succeeded else 0, time)
            for outcome, time in zip(self.measured, self._measured["generation_time"], strict=True)
            if time is not None
        ]
        slower, faster = intervals.rate_interval([count for count, _ in pairs], [time for _, time in pairs])
        return Interval(rate * slower, rate * faster)

    def _phase(self, name: str) -> Distribution:
        """Return the distribution of a phase.

        The phases before acceptance include all prompts, since caching cannot affect them.
        """
        of = self._columns if name in ("send_lag", "submit_time") else self._measured
        return Distribution.over_time(self._named(name), *of.timed(name))

    def _waited(self, name: Waited, timed: Timed, failed: int) -> Distribution:
        """Return the distribution of a time that depends on the other prompts in the queue."""
        n = len(timed.values)

        def replayed(q: float | None, value: float) -> Estimate:
            return ReplayEstimate(self._reruns, name, q, value, n + (0 if q is None else failed))

        return Distribution.over_time(self._named(name), *timed, failed, evidence=replayed)

    @cached_property
    def _reruns(self) -> ReplayModel:
        return ReplayModel(self.facts, self.outcomes, whole=not self._label)

    def _forget(self) -> None:
        reruns = self.__dict__.get("_reruns")
        super()._forget()
        if reruns is not None:
            # Another test may make assertions on this load, and a replay takes longer than everything else.
            reruns.forget()
            self._reruns = reruns

    @cached_property
    def _succeeded(self) -> Columns:
        """The columns of all successful prompts, measurements or not."""
        return self._columns.among(self._columns.succeeded)

    def _inside(self, name: str) -> Distribution:
        return Distribution.over_time(self._named(name), *self._good.nodes.parts.get(name, ((), ())))
