"""One load run, or a part of one: its outcomes, which of them are measurements, and whether the run is valid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from typing import Literal

from pytest_comfyload.metrics.metric import Count, Metric
from pytest_comfyload.result import validity
from pytest_comfyload.result.columns import Columns
from pytest_comfyload.result.gpu_usage import ExecutedWork, GpuUsage, read_at
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.run_facts import Accounting, RunFacts
from pytest_comfyload.result.telemetry import ServerUsage

__all__ = ["MeasuredRun"]


class MeasuredRun:
    """A run, or a part of one, whose metrics have names that begin with `label`.

    `outcomes` are the prompts of the measured window, `measured` those of them that times are computed from: all but
    those whose work came from the server's cache (`cached` counts them). `carried` are earlier prompts that may end in
    this part.
    """

    def __init__(
        self, facts: RunFacts, outcomes: Iterable[Outcome], carried: Iterable[Outcome] = (), label: str = ""
    ) -> None:
        self.facts = facts
        self._label = label
        self._carried = tuple(carried)
        self.all_outcomes = tuple(sorted(outcomes, key=lambda outcome: outcome.intended))
        self.outcomes = tuple(outcome for outcome in self.all_outcomes if not outcome.warmup)
        self.measured = validity.measurements(self.outcomes, allow_cached=facts.allow_cached)
        by_status = Counter(outcome.status for outcome in self.outcomes)
        self.accounting = Accounting(facts.intended, facts.submitted, by_status)
        self.accounting.check()

    # --- the run ---

    @property
    def scenario(self) -> str:
        """One line that describes the load, with its workflow and its users or rate."""
        return self.facts.scenario

    @property
    def seed(self) -> int:
        """The number that seeds all random draws of this run; `load_scenario(seed=…)` repeats them."""
        return self.facts.seed

    @property
    def simulated(self) -> bool:
        """Whether a simulated server ran it. Its figures are in virtual time, and say nothing about a real server."""
        return self.facts.simulated

    @property
    def window(self) -> float:
        """Length of the measured window in seconds."""
        start, end = self.facts.window
        return end - start

    @property
    def state(self) -> str:
        """The validity of the run, one of `valid`, `incomplete`, `invalid` and `contaminated`.

        `incomplete`: prompts are missing. `invalid`: the figures say nothing about the server. `contaminated`: prompts
        of other clients were in the queue. For the first two, `invalid_because` gives the reason.
        """
        if self.facts.incomplete:
            return "incomplete"
        if self.invalid_because:
            return "invalid"
        return "contaminated" if self.contended else "valid"

    @cached_property
    def invalid_because(self) -> str | None:
        """Why the run is incomplete or invalid; None if it is neither."""
        if reason := self.facts.incomplete or self.facts.invalid:
            return reason
        # Prompts answered from the cache at once saturate the generator, too, so the cause is reported first.
        cached = None if self.facts.allow_cached else validity.cache_fault(self.outcomes)
        return (
            cached
            or validity.must_run_fault(self.outcomes, self.facts.must_run)
            or validity.stamps_fault(self.outcomes)
            or validity.generator_fault(self.facts, self._columns)
        )

    @property
    def server(self) -> ServerUsage:
        """Memory in use on the servers, such as `.ram_used.max` in bytes and `.vram_used.slope` in bytes per minute."""
        return ServerUsage(self.facts.server_usage)

    @property
    def gpu(self) -> GpuUsage:
        """GPU metrics over the measured window, such as `.utilization.mean`, `.vram.peak` and `.energy_per_image`."""
        output = self.delivers.removesuffix("s")
        work = self._executed_work(output) if self.facts.gpu_usage else ExecutedWork(output=output)
        return GpuUsage(self.facts.gpu_usage, self.facts.window, work, self._named("gpu"), self._no_gpu_because)

    def _executed_work(self, output: str) -> ExecutedWork:
        executing: dict[str, list[tuple[float, float]]] = {}
        for outcome in (*self._carried, *self.outcomes):
            if (timeline := outcome.timeline) and timeline.started is not None and timeline.ended is not None:
                executing.setdefault(outcome.ran_on, []).append((timeline.started, timeline.ended))
        results = sum(len(outcome.results) for outcome in self._ended_in_window)
        return ExecutedWork(executing, results, output)

    @property
    def _no_gpu_because(self) -> str:
        if sources := self.facts.gpu_sources:
            return read_at(sources)
        if self._label:
            return "GPU figures cannot be split by prompt; split the result by server or by time"
        return Metric.absent_because

    @property
    def contended(self) -> Count:
        """Number of prompts that shared the server with prompts of other clients."""
        return Count(
            sum([outcome.contended for outcome in self.outcomes]), self._named("contended"), len(self.outcomes)
        )

    @cached_property
    def delivers(self) -> Literal["images", "outputs"]:
        """What `throughput` counts, "images", or "outputs" if other files are among them (videos, sound, …)."""
        files = (file for outcome in self._good.outcomes for file in outcome.results)
        return "images" if all(file.is_picture for file in files) else "outputs"

    def _named(self, metric: str) -> str:
        return self._label + metric

    def _forget(self) -> None:
        """Drop cached values, which take half as much memory as the outcomes; they are computed again on demand."""
        for kind in type(self).__mro__:
            for name, value in vars(kind).items():
                if isinstance(value, cached_property):
                    self.__dict__.pop(name, None)

    @cached_property
    def _columns(self) -> Columns:
        return Columns(self.outcomes)

    @cached_property
    def _measured(self) -> Columns:
        return self._columns.among(self.measured)

    @cached_property
    def _good(self) -> Columns:
        """The columns of the successful measurements."""
        return self._measured.among(self._measured.succeeded)

    @cached_property
    def _ended_in_window(self) -> list[Outcome]:
        """Successful measurements that ended in the window, including those sent before it."""
        start, end = self.facts.window
        carried = validity.measurements(self._carried, allow_cached=self.facts.allow_cached)
        carried = [outcome for outcome in carried if outcome.succeeded and outcome.end and outcome.end >= start]
        ended = [outcome for outcome in carried if outcome.end is not None and outcome.end <= end]
        fetched = zip(self._good.outcomes, self._good["fetched"], strict=True)
        return ended + [outcome for outcome, at in fetched if at is not None and at <= end]
