"""What one load run measured: every metric is made of the outcomes in the measured window, and of nothing else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_comfyload.errors import GeneratorError, UsageError
from pytest_comfyload.result.distribution import Distribution
from pytest_comfyload.result.metric import Count, Metric
from pytest_comfyload.result.outcome import CacheClass, Outcome, OutcomeStatus

__all__ = ["Accounting", "LoadResult", "RunFacts"]


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is known of a run besides its outcomes. Times are seconds of the run's clock; lags are wall seconds."""

    run_id: str
    title: str
    scenario: str
    workflow: str
    servers: tuple[str, ...]
    seed: int
    epoch: float
    window: tuple[float, float]
    time_scale: float | None
    intended: int
    submitted: int
    loop_lag: float
    max_send_lag: float
    allow_cached: bool = False
    open_load: bool = False
    invalid: str | None = None
    notes: tuple[str, ...] = ()
    server_versions: tuple[str, ...] = ()

    @property
    def simulated(self) -> bool:
        return self.time_scale is not None


@dataclass(frozen=True, slots=True)
class Accounting:
    """intended = submitted + dropped, submitted = the sum over every way to end; of measured prompts."""

    intended: int
    submitted: int
    by_status: Mapping[OutcomeStatus, int]

    @property
    def dropped(self) -> int:
        return self.intended - self.submitted

    def check(self) -> None:
        """Raises: GeneratorError if a prompt was lost by us or counted twice."""
        if self.submitted != sum(self.by_status.values()) or self.dropped < 0:
            ended = ", ".join(f"{count} {status}" for status, count in self.by_status.items())
            raise GeneratorError(
                f"the accounts do not balance: {self.intended} intended, {self.submitted} submitted, ended: {ended}"
            )


class LoadResult:
    """The `load` of a test. Times are seconds, percentages 0–100, throughputs per minute."""

    def __init__(self, facts: RunFacts, outcomes: Iterable[Outcome]) -> None:
        self.facts = facts
        self.all_outcomes = tuple(sorted(outcomes, key=lambda outcome: outcome.intended))
        self.outcomes = tuple(outcome for outcome in self.all_outcomes if not outcome.warmup)
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
        somebody else's prompts were in the queue.
        """
        if self.invalid_because:
            return "invalid"
        return "contaminated" if self.contended else "valid"

    @property
    def invalid_because(self) -> str | None:
        if self.facts.invalid:
            return self.facts.invalid
        lag, limit = self.send_lag.percentile(99), self.facts.max_send_lag
        if self.send_lag.n and float(lag) > limit:
            return f"the generator was late (send_lag p99 {lag * 1000:.0f} > {limit * 1000:.0f} ms)"
        succeeded = [outcome for outcome in self.outcomes if outcome.succeeded]
        fully = [outcome for outcome in succeeded if outcome.cache_class is CacheClass.FULLY]
        if succeeded and len(fully) == len(succeeded) and not self.facts.allow_cached:
            return (
                f"all {len(fully)} successful prompts came whole from the server's cache: nothing was generated; "
                "vary a seed or an input, or pass allow_cached=True"
            )
        return None

    # --- times ---

    @property
    def send_lag(self) -> Distribution:
        """Intended start to really sent, in wall seconds: the generator's own fault."""
        return self._phase("send_lag")

    @property
    def submit_time(self) -> Distribution:
        return self._phase("submit_time")

    @property
    def queue_time(self) -> Distribution:
        """Accepted to execution_start; a prompt that was accepted and never started counts as +∞."""
        stuck = sum(1 for outcome in self.outcomes if outcome.submit_time is not None and outcome.queue_time is None)
        return self._phase("queue_time", stuck)

    @property
    def generation_time(self) -> Distribution:
        """execution_start to execution_success by the server's stamps, of prompts that started."""
        started = [outcome for outcome in self.outcomes if outcome.timeline and outcome.timeline.started is not None]
        good = [outcome.generation_time for outcome in started if outcome.succeeded]
        values = [value for value in good if value is not None]
        return Distribution("generation_time", values, len(started) - len(values))

    @property
    def delivery_time(self) -> Distribution:
        return self._phase("delivery_time")

    @property
    def fetch_time(self) -> Distribution:
        return self._phase("fetch_time")

    @property
    def total_time(self) -> Distribution:
        """Intended start to outputs in hand; every failure counts as +∞."""
        good = [outcome.total_time for outcome in self.outcomes if outcome.succeeded]
        values = [value for value in good if value is not None]
        return Distribution("total_time", values, len(self.outcomes) - len(values))

    @property
    def node_time(self) -> Mapping[str, Distribution]:
        """Time in nodes of a class, by class, over the nodes that ran: `load.node_time["KSampler"].p95`."""
        return _ByClass(
            "node_time", "s", ((node.class_type, node.duration) for outcome in self._good() for node in outcome.nodes)
        )

    @property
    def steps_per_second(self) -> Mapping[str, Distribution]:
        """Progress steps per second of nodes that report them, by class."""
        rates = (
            (node.class_type, rate)
            for outcome in self._good()
            for node in outcome.nodes
            if (rate := node.steps_per_second) is not None
        )
        return _ByClass("steps_per_second", "it/s", rates)

    # --- counts and rates ---

    @property
    def success_rate(self) -> Metric:
        """Percent of the submitted prompts."""
        n = len(self.outcomes)
        share = 100 * len(self._good()) / n if n else math.nan
        return Metric(share, "success_rate", "%", n)

    @property
    def errors(self) -> Mapping[str, Count]:
        """How many prompts failed, by kind: `load.errors["timeout"]`; a kind that does not exist is refused."""
        return _Errors(self.accounting.by_status, len(self.outcomes))

    @property
    def oom_errors(self) -> Count:
        """Prompts that the server failed for want of memory."""
        return Count(self.errors["oom"], "oom_errors", len(self.outcomes))

    @property
    def timeouts(self) -> Count:
        return Count(self.errors["timeout"], "timeouts", len(self.outcomes))

    @property
    def cached(self) -> Count:
        """Prompts that came whole from the server's cache."""
        fully = sum(1 for outcome in self.outcomes if outcome.cache_class is CacheClass.FULLY)
        return Count(fully, "cached", len(self.outcomes))

    @property
    def contended(self) -> Count:
        """Prompts that shared the server with somebody else's."""
        return Count(sum(1 for outcome in self.outcomes if outcome.contended), "contended", len(self.outcomes))

    @property
    def dropped(self) -> Count:
        """Arrivals of an open load that found no free user; a closed load has none to drop."""
        return Count(self.accounting.dropped, "dropped", self.accounting.intended if self.facts.open_load else 0)

    @property
    def throughput(self) -> Metric:
        """Images per minute: those of prompts that ended in the window."""
        images = sum(outcome.images for outcome in self._ended_in_window())
        return self._per_minute(images, "throughput", "images/min")

    @property
    def prompt_throughput(self) -> Metric:
        """Successful prompts per minute that ended in the window."""
        return self._per_minute(len(self._ended_in_window()), "prompt_throughput", "prompts/min")

    def to_dict(self) -> dict[str, Any]:
        """The figures as built-ins, for JSON; what has no samples is left out."""
        times = {name: _figures(getattr(self, name)) for name in _TIMES}
        return {
            "run_id": self.facts.run_id,
            "title": self.facts.title,
            "scenario": self.facts.scenario,
            "workflow": self.facts.workflow,
            "servers": list(self.facts.servers),
            "seed": self.facts.seed,
            "simulated": self.simulated,
            "state": self.state,
            "invalid_because": self.invalid_because,
            "window": self.window,
            "prompts": len(self.outcomes),
            "intended": self.accounting.intended,
            "submitted": self.accounting.submitted,
            "dropped": self.accounting.dropped,
            "contended": int(self.contended),
            "errors": {str(status): n for status, n in self.accounting.by_status.items() if status != "success"},
            "success_rate": float(self.success_rate) if self.outcomes else None,
            "throughput": float(self.throughput) if self.outcomes else None,
            "loop_lag": self.facts.loop_lag,
            "by_group": self._by("group"),
            "by_server": self._by("server"),
            "notes": list(self.facts.notes),
            **{name: figures for name, figures in times.items() if figures},
        }

    def _by(self, fact: str) -> dict[str, dict[str, Any]]:
        """The figures of each part of the run by a fact of its prompts; none where all have the same."""
        parts: dict[str, list[Outcome]] = {}
        for outcome in self.outcomes:
            parts.setdefault(str(getattr(outcome, fact)), []).append(outcome)
        return {name: _part(self.facts, outcomes) for name, outcomes in sorted(parts.items())} if len(parts) > 1 else {}

    def __repr__(self) -> str:
        return f"<LoadResult {self.facts.title}: {len(self.outcomes)} prompts, {self.state}>"

    def _good(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.succeeded]

    def _ended_in_window(self) -> list[Outcome]:
        end = self.facts.window[1]
        return [outcome for outcome in self._good() if outcome.end is not None and outcome.end <= end]

    def _per_minute(self, count: int, name: str, unit: str) -> Metric:
        rate = 60 * count / self.window if self.window > 0 else math.nan
        return Metric(rate, name, unit, len(self.outcomes))

    def _phase(self, name: str, failed: int = 0) -> Distribution:
        values = [getattr(outcome, name) for outcome in self.outcomes]
        return Distribution(name, [value for value in values if value is not None], failed)


_TIMES = (
    "send_lag", "submit_time", "queue_time", "generation_time", "delivery_time", "fetch_time", "total_time"
)  # fmt: skip


def _part(facts: RunFacts, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What a summary says of a part of the run; its dropped prompts belong to nobody."""
    part = LoadResult(replace(facts, intended=len(outcomes), submitted=len(outcomes)), outcomes)
    times = {name: _figures(getattr(part, name)) for name in ("queue_time", "generation_time", "total_time")}
    errors = {str(status): n for status, n in part.accounting.by_status.items() if status != "success"}
    return {"prompts": len(outcomes), "errors": errors, **{name: figures for name, figures in times.items() if figures}}


def _figures(times: Distribution) -> dict[str, float | int]:
    if not times.n:
        return {}
    over_successes = {name: float(getattr(times, name)) for name in ("mean", "min", "max") if times.values}
    percentiles = {name: float(getattr(times, name)) for name in ("p50", "p90", "p95", "p99")}
    return {"n": times.n, "failed": times.failed, **over_successes, **percentiles}


class _Errors(dict[str, Count]):
    def __init__(self, by_status: Mapping[OutcomeStatus, int], n: int) -> None:
        super().__init__(
            (str(kind), Count(by_status.get(kind, 0), f"errors[{str(kind)!r}]", n))
            for kind in OutcomeStatus
            if kind is not OutcomeStatus.SUCCESS
        )

    def __missing__(self, kind: str) -> Count:
        raise UsageError(f"no such kind of error: {kind!r}; legal: {', '.join(self)}")


class _ByClass(dict[str, Distribution]):
    def __init__(self, name: str, unit: str, pairs: Iterable[tuple[str, float]]) -> None:
        values: dict[str, list[float]] = {}
        for class_type, value in pairs:
            values.setdefault(class_type, []).append(value)
        super().__init__(
            (class_type, Distribution(f'{name}["{class_type}"]', measured, unit=unit))
            for class_type, measured in values.items()
        )
        self._name = name

    def __missing__(self, class_type: str) -> Distribution:
        seen = ", ".join(sorted(self)) or "none"
        raise UsageError(f"{self._name}[{class_type!r}]: no node of that class ran; classes that ran: {seen}")
