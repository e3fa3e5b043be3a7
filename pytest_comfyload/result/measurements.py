"""The metrics of one load run: each is made of the outcomes in the measured window, and of nothing else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Literal

from pytest_comfyload.metrics import intervals
from pytest_comfyload.metrics.assessment import Estimate
from pytest_comfyload.metrics.distribution import Distribution
from pytest_comfyload.metrics.estimates import MeanEstimate, ProportionEstimate, ScheduledRate
from pytest_comfyload.metrics.intervals import Interval
from pytest_comfyload.metrics.metric import Count, Metric
from pytest_comfyload.protocol.timeline import NodeInterval
from pytest_comfyload.result import outcome as phases
from pytest_comfyload.result import validity as credibility
from pytest_comfyload.result import validity as honesty
from pytest_comfyload.result.counts import ByClass, ErrorCounts, Goodput, in_time, is_saturated, parse_bounds
from pytest_comfyload.result.executions import Executions, executed
from pytest_comfyload.result.gpu_usage import ExecutedWork, GpuUsage, read_at
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.replay_estimate import ReplayEstimate, ReplayModel, Waited
from pytest_comfyload.result.run_facts import Accounting, RunFacts
from pytest_comfyload.result.telemetry import ServerUsage

__all__ = ["Measurements"]


class Measurements:
    """Every metric of a run, or of a part of one. Times are seconds, percentages 0–100, throughputs per minute.

    The metrics of a part are named with its `label`; `carried` are the prompts from before it that may end in it.
    `outcomes` are the prompts of the measured window, `measured` those of them that its times are made of: all but
    those whose work came from the server's cache (`cached` counts them).
    """

    def __init__(
        self, facts: RunFacts, outcomes: Iterable[Outcome], carried: Iterable[Outcome] = (), label: str = ""
    ) -> None:
        self.facts = facts
        self._label = label
        self._carried = tuple(carried)
        self.all_outcomes = tuple(sorted(outcomes, key=lambda outcome: outcome.intended))
        self.outcomes = tuple(outcome for outcome in self.all_outcomes if not outcome.warmup)
        self.measured = honesty.measurements(self.outcomes, allow_cached=facts.allow_cached)
        by_status = Counter(outcome.status for outcome in self.outcomes)
        self.accounting = Accounting(facts.intended, facts.submitted, by_status)
        self.accounting.check()

    # --- the run ---

    @property
    def scenario(self) -> str:
        return self.facts.scenario

    @property
    def seed(self) -> int:
        return self.facts.seed

    @property
    def simulated(self) -> bool:
        return self.facts.simulated

    @property
    def window(self) -> float:
        """Length of the measured window in seconds."""
        start, end = self.facts.window
        return end - start

    @property
    def state(self) -> str:
        """`valid`; `invalid`: the figures say nothing about the server, `invalid_because` says why; `contaminated`:
        foreign prompts were in the queue.
        """
        if self.invalid_because:
            return "invalid"
        return "contaminated" if self.contended else "valid"

    @property
    def invalid_because(self) -> str | None:
        if self.facts.invalid:
            return self.facts.invalid
        # Prompts that the cache answers in no time saturate the generator, too: what is the cause comes first.
        cached = None if self.facts.allow_cached else honesty.cache_fault(self.outcomes)
        return (
            cached
            or honesty.must_run_fault(self.outcomes, self.facts.must_run)
            or credibility.stamps_fault(self.outcomes)
            or credibility.generator_fault(self.facts, self.outcomes)
        )

    @property
    def server(self) -> ServerUsage:
        """What the servers' memory was: `load.server.ram_used.max`, `.vram_used.slope`, in bytes (per minute)."""
        return ServerUsage(self.facts.server_usage)

    @property
    def gpu(self) -> GpuUsage:
        """What the GPUs did over the measured window: `load.gpu.utilization.mean`, `.vram.peak`, `.energy_per_image`.

        In a part by server, worker or time it is that of the part; other parts have none.
        """
        executing: dict[str, list[tuple[float, float]]] = {}
        for outcome in (*self._carried, *self.outcomes):
            if (timeline := outcome.timeline) and timeline.started is not None and timeline.ended is not None:
                executing.setdefault(outcome.ran_on, []).append((timeline.started, timeline.ended))
        results = sum(len(outcome.results) for outcome in self._ended_in_window())
        work = ExecutedWork(executing, results, self.delivers.removesuffix("s"))
        return GpuUsage(self.facts.gpu_usage, self.facts.window, work, self._named("gpu"), self._no_gpu_because)

    @property
    def _no_gpu_because(self) -> str:
        if sources := self.facts.gpu_sources:
            return read_at(sources)
        if self._label:
            return "a GPU does not say whose prompt it works on; parts by server or time have it"
        return Metric.absent_because

    # --- times ---

    @property
    def send_lag(self) -> Distribution:
        """Intended start to really sent, in wall seconds: the generator's own fault."""
        return self._phase("send_lag")

    @property
    def generator_lag(self) -> Distribution:
        """What the generator added to total_time, at most, in wall seconds: its loop was busy with something else."""
        return self._phase("generator_lag")

    @property
    def submit_time(self) -> Distribution:
        return self._phase("submit_time")

    @property
    def queue_time(self) -> Distribution:
        """Accepted to execution_start; a prompt that was accepted and never started counts as +∞."""
        stuck = sum(1 for outcome in self.measured if outcome.submit_time is not None and outcome.queue_time is None)
        return self._waited("queue_time", _points(self.measured, lambda outcome: outcome.queue_time), stuck)

    @property
    def generation_time(self) -> Distribution:
        """execution_start to execution_success by the server's stamps, of prompts that started."""
        started = [outcome for outcome in self.measured if outcome.timeline and outcome.timeline.started is not None]
        points = _points((outcome for outcome in started if outcome.succeeded), lambda outcome: outcome.generation_time)
        return Distribution.over_time(self._named("generation_time"), points, len(started) - len(points))

    @property
    def delivery_time(self) -> Distribution:
        return self._phase("delivery_time")

    @property
    def fetch_time(self) -> Distribution:
        return self._phase("fetch_time")

    @property
    def total_time(self) -> Distribution:
        """Intended start to outputs in hand; every failure counts as +∞."""
        points = _points(self._good(), lambda outcome: outcome.total_time)
        return self._waited("total_time", points, len(self.measured) - len(points))

    # --- times inside nodes, of successful prompts ---

    @property
    def model_load_time(self) -> Distribution:
        """Per prompt, in loaders and in samplers before their first step; 0 where all models were in place."""
        return self._inside("model_load_time", phases.model_load_time)

    @property
    def sampling_time(self) -> Distribution:
        """Per prompt with a sampler, from its first step on."""
        return self._inside("sampling_time", phases.sampling_time)

    @property
    def decode_time(self) -> Distribution:
        """Per prompt with a VAE decoder."""
        return self._inside("decode_time", phases.decode_time)

    @property
    def save_time(self) -> Distribution:
        """Per prompt with a node that saves or previews."""
        return self._inside("save_time", phases.save_time)

    @property
    def node_time(self) -> ByClass:
        """Time in nodes of a class, by class, over the nodes that ran: `load.node_time["KSampler"].p95`."""
        times = (
            (node.class_type, outcome.intended, node.duration) for outcome in self._good() for node in outcome.nodes
        )
        return ByClass(self._named("node_time"), "s", times)

    @property
    def steps_per_second(self) -> ByClass:
        """Progress steps per second of nodes that report them, by class."""
        rates = (
            (node.class_type, outcome.intended, rate)
            for outcome in self._good()
            for node in outcome.nodes
            if (rate := node.steps_per_second) is not None
        )
        return ByClass(self._named("steps_per_second"), "it/s", rates)

    # --- counts and rates ---

    @property
    def success_rate(self) -> Metric:
        """Percent of the submitted prompts."""
        succeeded = sum(1 for outcome in self.outcomes if outcome.succeeded)
        return self._share("success_rate", succeeded, len(self.outcomes), "succeeded", "failing")

    @property
    def errors(self) -> ErrorCounts:
        """How many prompts failed, by kind: `load.errors["timeout"]`; a kind that does not exist is refused."""
        return ErrorCounts(self._named("errors"), self.accounting.by_status, len(self.outcomes))

    @property
    def oom_errors(self) -> Count:
        """Prompts that failed because the server was out of memory."""
        return Count(self.errors["oom"], self._named("oom_errors"), len(self.outcomes))

    @property
    def timeouts(self) -> Count:
        return Count(self.errors["timeout"], self._named("timeouts"), len(self.outcomes))

    @property
    def cached(self) -> Count:
        """Prompts whose work came from the server's cache, all or some of it.

        Unless allow_cached=True, they are in no time but `send_lag` and `submit_time`, in no throughput or goodput, and
        in no energy per image; in `success_rate` and the counts they are.
        """
        hits = sum(1 for outcome in self.outcomes if outcome.succeeded and outcome.from_cache)
        return Count(hits, self._named("cached"), len(self.outcomes))

    @property
    def contended(self) -> Count:
        """Prompts that shared the server with foreign prompts."""
        return Count(
            sum(1 for outcome in self.outcomes if outcome.contended), self._named("contended"), len(self.outcomes)
        )

    @property
    def stalled(self) -> Count:
        """Prompts that were under way while the generator stood still for longer than `max_send_lag`."""
        stalled = sum(1 for outcome in self.outcomes if outcome.stalled)
        return Count(stalled, self._named("stalled"), len(self.outcomes))

    @property
    def void(self) -> Count:
        """Prompts whose server stamps cannot be right: they have no phases but those of the client's own clock."""
        return Count(sum(1 for outcome in self.outcomes if outcome.void), self._named("void"), len(self.outcomes))

    @property
    def dropped(self) -> Count:
        """Arrivals of an open load that found no free user; a closed load has none to drop."""
        return Count(
            self.accounting.dropped, self._named("dropped"), self.accounting.intended if self.facts.open_load else 0
        )

    @property
    def cached_classes(self) -> Mapping[str, int]:
        """By node class: in how many successful prompts it came from the server's cache, and no node of it ran."""
        return honesty.cached_in(self.outcomes)

    @property
    def always_ran(self) -> tuple[str, ...]:
        """The node classes that ran in every successful prompt."""
        return honesty.always_ran(self.outcomes)

    @property
    def executions(self) -> Executions:
        """By workflow and node class, in how many prompts 0, 1, 2, … nodes of the class were executed."""
        return executed(self.measured, self.facts.nodes)

    @property
    def silent_ooms(self) -> Count:
        """Retries for lack of memory that only the servers' logs tell; no samples where no server shows its log."""
        retries = self.facts.silent_ooms
        return Count(retries or 0, self._named("silent_ooms"), 0 if retries is None else len(self.outcomes))

    @property
    def delivers(self) -> Literal["images", "outputs"]:
        """What `throughput` counts: images, or outputs where other files are among them (videos, sound, …)."""
        files = [file for outcome in self._good() for file in outcome.results]
        return "images" if all(file.is_picture for file in files) else "outputs"

    @property
    def throughput(self) -> Metric:
        """Files delivered per minute, of whatever kind, by prompts that ended in the window; `.unit` says which."""
        return self._per_minute("throughput", f"{self.delivers}/min", lambda outcome: len(outcome.results))

    @property
    def blank_outputs(self) -> Count:
        """Pictures among the results in which every channel is constant; animations where that holds in each frame."""
        blank = sum(len(outcome.blank) for outcome in self.outcomes)
        return Count(blank, self._named("blank_outputs"), len(self.outcomes))

    @property
    def prompt_throughput(self) -> Metric:
        """Successful prompts per minute that ended in the window."""
        return self._per_minute("prompt_throughput", "prompts/min", lambda outcome: 1)

    def goodput(self, **bounds: float | str) -> Goodput:
        """The prompts that succeeded within all bounds, in seconds: `load.goodput(total_time=30).share > 95`.

        Raises: UsageError for a time that does not exist, or a bound that is none.
        """
        within = parse_bounds(bounds)
        hits = sum(1 for outcome in self.measured if in_time(outcome, within))
        name = f"goodput({', '.join(f'{time}={bound:g}' for time, bound in within.items())})"
        share = self._share(f"{name}.share", hits, len(self.measured), "in time", "being late")
        rate = self._per_minute(f"{name}.rate", "prompts/min", lambda outcome: int(in_time(outcome, within)))
        return Goodput(share, rate)

    def _named(self, metric: str) -> str:
        return self._label + metric

    def _good(self) -> list[Outcome]:
        return [outcome for outcome in self.measured if outcome.succeeded]

    def _ended_in_window(self) -> list[Outcome]:
        start, end = self.facts.window
        carried = honesty.measurements(self._carried, allow_cached=self.facts.allow_cached)
        carried = [outcome for outcome in carried if outcome.succeeded and outcome.end and outcome.end >= start]
        return [outcome for outcome in (*carried, *self._good()) if outcome.end is not None and outcome.end <= end]

    def _share(self, name: str, hits: int, n: int, did: str, else_: str) -> Metric:
        share = 100 * hits / n if n else math.nan
        return Metric(share, self._named(name), "%", n, evidence=ProportionEstimate(hits, n, did, else_))

    def _per_minute(self, name: str, unit: str, counted: Callable[[Outcome], int]) -> Metric:
        count = sum(counted(outcome) for outcome in self._ended_in_window())
        rate = 60 * count / self.window if self.window > 0 else math.nan
        return Metric(rate, self._named(name), unit, len(self.measured), evidence=self._pace(rate, counted))

    def _pace(self, rate: float, counted: Callable[[Outcome], int]) -> Estimate:
        """A throughput goes by the generation times, unless no prompt waits for the servers."""
        if self.facts.open_load and not is_saturated(self.facts, self.outcomes):
            return ScheduledRate()
        pairs = [
            (counted(outcome) if outcome.succeeded else 0, outcome.generation_time)
            for outcome in self.measured
            if outcome.generation_time is not None
        ]
        slower, faster = intervals.rate_interval([count for count, _ in pairs], [time for _, time in pairs])
        return MeanEstimate(Interval(rate * slower, rate * faster))

    def _phase(self, name: str) -> Distribution:
        """Before a server has the prompt, nothing of it can be cached."""
        of = self.outcomes if name in ("send_lag", "submit_time") else self.measured
        return Distribution.over_time(self._named(name), _points(of, lambda outcome: getattr(outcome, name)))

    def _waited(self, name: Waited, points: Sequence[tuple[float, float]], failed: int) -> Distribution:
        """Of a time that depends on the other prompts in the queue."""

        def replayed(q: float | None, value: float) -> Estimate:
            return ReplayEstimate(self._reruns, name, q, value, len(points) + (0 if q is None else failed))

        return Distribution.over_time(self._named(name), points, failed, evidence=replayed)

    @cached_property
    def _reruns(self) -> ReplayModel:
        return ReplayModel(self.facts, self.outcomes, whole=not self._label)

    def _inside(self, name: str, of: Callable[[Iterable[NodeInterval]], float | None]) -> Distribution:
        ran = [outcome for outcome in self._good() if outcome.nodes or outcome.cached]
        return Distribution.over_time(self._named(name), _points(ran, lambda outcome: of(outcome.nodes)))


def _points(outcomes: Iterable[Outcome], value_of: Callable[[Outcome], float | None]) -> list[tuple[float, float]]:
    """(intended start, value) of the prompts that have one."""
    values = ((outcome.intended, value_of(outcome)) for outcome in outcomes)
    return [(time, value) for time, value in values if value is not None]
