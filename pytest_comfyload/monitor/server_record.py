"""Record of one server: counters of ended prompts, which survive a restart, and its current state."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_comfyload.monitor.ended_prompt import STATUSES, EndedPrompt
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.run_facts import GpuFacts
from pytest_comfyload.result.telemetry import GpuSample

__all__ = ["COARSE", "FINE", "WINDOW", "Histogram", "ProbeRecord", "RecentPrompts", "ServerRecord"]

# Seconds; the last bucket, without an upper bound, is implied. Dashboards should use the fine ones.
COARSE = (5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0)
# From 0.05 s to 50 minutes, each 1.25 times the previous one.
FINE = tuple(float(f"{0.05 * 1.25**power:.3g}") for power in range(50))


class Histogram:
    """Counts by upper bound, and the sum of all values; `counts` has one more entry for values above the last bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Return each bucket's upper bound and cumulative count, as Prometheus writes them."""
        total, buckets = 0, []
        for bound, count in zip((*self.bounds, math.inf), self.counts, strict=True):
            total += count
            buckets.append(("+Inf" if math.isinf(bound) else repr(bound), float(total)))
        return buckets

    @property
    def count(self) -> int:
        return sum(self.counts)

    def quantile(self, share: float) -> float | None:
        """Return the upper bound of the bucket that contains the quantile; None without values."""
        wanted, total = share * self.count, 0
        for bound, count in zip((*self.bounds, math.inf), self.counts, strict=True):
            total += count
            if total and total >= wanted:
                return bound
        return None


# Window of the live view in seconds of the server's clock, and the number of prompts that it keeps.
WINDOW = 300.0
MOST_RECENT = 2000


class RecentPrompts:
    """The prompts that ended in the last five minutes of the server's clock, by its own timestamps.

    `scale`: seconds of that clock per real second; can differ from 1 on a simulated server.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.scale = 1.0
        self._now = now
        self._began: float | None = None
        self._kept: deque[EndedPrompt] = deque(maxlen=MOST_RECENT)
        self._newest, self._seen_at = -math.inf, 0.0

    def add(self, ended: Sequence[EndedPrompt]) -> None:
        self._began = self._now() if self._began is None else self._began
        for each in ended:
            if each.ended is not None:
                self._kept.append(each)
                if each.ended > self._newest:
                    self._newest, self._seen_at = each.ended, self._now()

    def _within(self) -> list[EndedPrompt]:
        now = self._newest + (self._now() - self._seen_at) * self.scale
        return [each for each in self._kept if each.ended is not None and each.ended > now - WINDOW]

    @property
    def durations(self) -> list[float]:
        """Execution times in seconds of successful prompts that were not served from the cache, ascending."""
        found = self._within()
        return sorted(e.duration for e in found if e.status == "success" and not e.cached and e.duration is not None)

    @property
    def success_rate(self) -> float | None:
        """Success rate in percent; None without prompts."""
        found = self._within()
        return 100 * sum(each.status == "success" for each in found) / len(found) if found else None

    @property
    def images_per_minute(self) -> float | None:
        """Images per minute of the server's clock, over five minutes or since the oldest prompt in them started.

        None before the first poll.
        """
        if self._began is None:
            return None
        found = self._within()
        if not found:
            return 0.0
        first = min(each.started or each.ended or self._newest for each in found)
        now = self._newest + (self._now() - self._seen_at) * self.scale
        return 60 * sum(each.images for each in found) / max(1.0, min(WINDOW, now - first))


# Exported phases, by label.
PHASES = {
    "queue": "queue_time",
    "generation": "generation_time",
    "fetch": "fetch_time",
    "total": "total_time",
}


@dataclass(slots=True)
class ProbeRecord:
    """The last probe of a server, in seconds by phase and node class; `at` is a Unix time, None before any probe."""

    succeeded: bool | None = None
    at: float | None = None
    phases: Mapping[str, float] = field(default_factory=dict)
    nodes: Mapping[str, float] = field(default_factory=dict)
    failures: int = 0

    def take(self, outcome: Outcome | None) -> None:
        """Record the outcome of a probe; None if it could not be sent."""
        self.at = time.time()
        self.succeeded = outcome is not None and outcome.succeeded
        self.failures += not self.succeeded
        self.phases, self.nodes = {}, {}
        if outcome is None or not self.succeeded:
            return
        times = {label: getattr(outcome, phase) for label, phase in PHASES.items()}
        self.phases = {label: seconds for label, seconds in times.items() if seconds is not None}
        nodes: dict[str, float] = {}
        for node in outcome.nodes:
            nodes[node.class_type] = nodes.get(node.class_type, 0.0) + node.duration
        self.nodes = nodes


@dataclass(slots=True)
class ServerRecord:
    """Counters and state of one server; `server` is its label: host and port, from the options.

    Memory is in bytes, times are in seconds. None means unknown or not requested.
    `error`: why the last poll failed. `waiting` and `running` are numbers of prompts; `worker_dead`: prompts wait and
    none runs. `events`: the socket that counts `accepted` and `deleted` is open. `reads_log`: the log, which provides
    `model_loads`, `silent_ooms` and `steps_per_second`, can be read.
    """

    server: str
    generations: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATUSES, 0))
    generation: Histogram = field(default_factory=lambda: Histogram(COARSE))
    prompt: Histogram = field(default_factory=lambda: Histogram(FINE))
    queue_wait: Histogram = field(default_factory=lambda: Histogram(FINE))
    images: int = 0
    cached: int = 0
    steps: int = 0
    restarts: int = 0
    gaps: int = 0
    failures: int = 0
    accepted: int = 0
    deleted: int = 0
    model_loads: int = 0
    silent_ooms: int = 0
    up: bool = False
    events: bool | None = None
    reads_log: bool | None = None
    steps_per_second: float | None = None
    error: str = ""
    waiting: int | None = None
    running: int | None = None
    worker_dead: bool | None = None
    look_seconds: float | None = None
    ram_used: float | None = None
    vram_used: float | None = None
    vram_total: float | None = None
    version: str = ""
    device: str = ""
    simulated: bool = False
    gpus: tuple[GpuFacts, ...] = ()
    gpu_samples: dict[str, GpuSample] = field(default_factory=dict)
    recent: RecentPrompts = field(default_factory=RecentPrompts)
    probe: ProbeRecord = field(default_factory=ProbeRecord)

    def count(self, ended: Iterable[EndedPrompt]) -> None:
        """Count prompts that ended. Execution times are those of successful prompts not served from the cache."""
        for each in ended:
            self.generations[each.status] += 1
            self.images += each.images
            self.cached += each.cached
            self.steps += each.steps
            if each.status == "success" and not each.cached and each.duration is not None:
                self.generation.observe(each.duration)
                self.prompt.observe(each.duration)
            if each.queue_wait is not None:
                self.queue_wait.observe(each.queue_wait)

    @property
    def ended(self) -> int:
        return sum(self.generations.values())

    def to_state(self) -> dict[str, Any]:
        """Return the counters as JSON values."""
        numbers: dict[str, Any] = {name: getattr(self, name) for name in _NUMBERS}
        histograms = {name: getattr(self, name) for name in _HISTOGRAMS}
        return numbers | {
            "generations": dict(self.generations),
            "histograms": {name: {"counts": each.counts, "sum": each.sum} for name, each in histograms.items()},
        }

    def take_state(self, state: Mapping[str, Any]) -> None:
        """Continue the counters of an earlier process.

        Raises: ValueError, KeyError, TypeError or AttributeError if the state is malformed.
        """
        generations = {status: _count(state["generations"].get(status, 0)) for status in STATUSES}
        # Files of earlier versions lack some of the counters.
        numbers = {name: _count(state.get(name, 0)) for name in _NUMBERS}
        for name in _HISTOGRAMS:
            histogram, kept = getattr(self, name), state["histograms"][name]
            counts = [_count(each) for each in kept["counts"]]
            if len(counts) != len(histogram.counts) or not 0 <= kept["sum"] < math.inf:
                raise ValueError(f"histogram {name}")
            histogram.counts, histogram.sum = counts, float(kept["sum"])
        self.generations = generations
        for name, value in numbers.items():
            setattr(self, name, value)


_NUMBERS = (
    "images", "cached", "steps", "restarts", "gaps", "failures", "accepted", "deleted", "model_loads", "silent_ooms",
)  # fmt: skip
_HISTOGRAMS = ("generation", "prompt", "queue_wait")


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**53:
        raise ValueError(f"count {value!r}")
    return value
