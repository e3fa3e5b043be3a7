"""What is known of one server: counters of what ended, and its present state. Pure; `to_state` survives a restart."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_comfyload.monitor.ended_prompt import STATUSES, EndedPrompt
from pytest_comfyload.result.run_facts import GpuFacts
from pytest_comfyload.result.telemetry import GpuSample

__all__ = ["COARSE", "FINE", "Histogram", "ServerRecord"]

# Seconds; the last bucket, without an upper bound, is implied. Dashboards are to be drawn from the fine ones.
COARSE = (5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0)
# From 0.05 s, each 1.25 times the one before, up to 50 minutes.
FINE = tuple(float(f"{0.05 * 1.25**power:.3g}") for power in range(50))


class Histogram:
    """Counts by upper bound, and their sum; `counts` has one more for what lies beyond the last bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Return the upper bound and the count up to it, of each bucket, as Prometheus writes them."""
        total, buckets = 0, []
        for bound, count in zip((*self.bounds, math.inf), self.counts, strict=True):
            total += count
            buckets.append(("+Inf" if math.isinf(bound) else repr(bound), float(total)))
        return buckets

    @property
    def count(self) -> int:
        return sum(self.counts)

    def quantile(self, share: float) -> float | None:
        """Return an upper bound of the quantile: that of the bucket in which it lies; None without values."""
        wanted, total = share * self.count, 0
        for bound, count in zip((*self.bounds, math.inf), self.counts, strict=True):
            total += count
            if total and total >= wanted:
                return bound
        return None


@dataclass(slots=True)
class ServerRecord:
    """`server` is its label: host and port, from the options. Memory in bytes, times in seconds.

    `waiting` and `running` are prompts; `worker_dead` says that prompts wait and none runs. None is what is unknown.
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
    up: bool = False
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

    def count(self, ended: Iterable[EndedPrompt]) -> None:
        """Count prompts that ended. Only of generations that computed something there are times."""
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
        """Continue the counters of an earlier process. Raises: ValueError for anything else."""
        generations = {status: _count(state["generations"].get(status, 0)) for status in STATUSES}
        numbers = {name: _count(state[name]) for name in _NUMBERS}
        for name in _HISTOGRAMS:
            histogram, kept = getattr(self, name), state["histograms"][name]
            counts = [_count(each) for each in kept["counts"]]
            if len(counts) != len(histogram.counts) or not 0 <= kept["sum"] < math.inf:
                raise ValueError(f"histogram {name}")
            histogram.counts, histogram.sum = counts, float(kept["sum"])
        self.generations = generations
        for name, value in numbers.items():
            setattr(self, name, value)


_NUMBERS = ("images", "cached", "steps", "restarts", "gaps", "failures")
_HISTOGRAMS = ("generation", "prompt", "queue_wait")


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**53:
        raise ValueError(f"count {value!r}")
    return value
