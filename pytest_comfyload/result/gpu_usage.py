"""GPU metrics of a load, from the samples of any source.

A sample counts only with the part of its span that lies in the measured window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from pytest_comfyload.errors import UsageError, nearest
from pytest_comfyload.metrics.metric import Metric
from pytest_comfyload.metrics.time_series import Point
from pytest_comfyload.result.gpu_gauges import (
    ClockGauge,
    Frame,
    Gauge,
    MemoryGauge,
    UtilizationGauge,
    VramGauge,
    mean_of,
)
from pytest_comfyload.result.telemetry import GpuSample, Throttled
from pytest_comfyload.text import harmless_line

if TYPE_CHECKING:
    from pytest_comfyload.result.telemetry import GpuSample

__all__ = ["Energy", "ExecutedWork", "GpuUsage", "energy_of", "read_at"]


@dataclass(frozen=True, slots=True)
class ExecutedWork:
    """The prompts that each server executed, as (begin, end), and the number of outputs of all servers.

    `executed` is None if it is unknown, because no load was observed.
    """

    executed: Mapping[str, Sequence[tuple[float, float]]] | None = None
    outputs: int = 0
    output: str = "image"  # what one of them is called


def read_at(sources: Sequence[str]) -> str:
    """Return the reason why a GPU figure is missing, with the places where GPUs were read, each a line of text."""
    return f"GPUs were read at {'; '.join(sources)} (--comfyload-gpu sets other sources)"


class GpuUsage:
    """GPU metrics, `load.gpu`. With several GPUs, means are over all of them, peaks of any, and energy is the sum."""

    def __init__(
        self,
        samples: Iterable[GpuSample],
        window: tuple[float, float],
        work: ExecutedWork = ExecutedWork(),
        name: str = "gpu",
        absent_because: str = Metric.absent_because,
    ) -> None:
        self.samples = tuple(sorted(samples, key=lambda sample: sample.time))
        self._window = window
        self._work = work
        self._name = name
        self._absent_because = absent_because

    @property
    def utilization(self) -> UtilizationGauge:
        """Percent of the time in which any kernel ran, with `.mean`, `.p95` and `.max`.

        `.busy_mean` is the mean over the time in which prompts were executed.
        """
        points = self._points(lambda sample: sample.utilization)
        return UtilizationGauge(f"{self._name}.utilization", points, self._frame, self._busy)

    @property
    def vram(self) -> VramGauge:
        """Memory in use in percent of the card's memory, with `.peak` and `.mean`."""
        return VramGauge(self._gauge("vram", "%", lambda sample: sample.vram))

    @property
    def memory_used(self) -> MemoryGauge:
        """Memory in use in bytes, with `.peak`, `.mean` and `.slope` (bytes per minute)."""
        return MemoryGauge(self._gauge("memory_used", "B", lambda sample: sample.memory_used))

    @property
    def temperature(self) -> Gauge:
        """Temperature in °C, with `.max` and `.mean`."""
        return self._gauge("temperature", "°C", lambda sample: sample.temperature)

    @property
    def power(self) -> Gauge:
        """Power of one GPU in watts, with `.mean` and `.max`."""
        return self._gauge("power", "W", lambda sample: sample.power)

    @property
    def clock(self) -> ClockGauge:
        """Clock of the multiprocessors in MHz, with `.mean`, `.min` and `.max`."""
        return ClockGauge(f"{self._name}.clock", "MHz", self._points(lambda sample: sample.clock), self._frame)

    @property
    def energy(self) -> Energy:
        """Joules of all GPUs over the window; `.source` says whether they were counted or computed from power."""
        n = len(self._points(lambda sample: sample.power if sample.energy is None else sample.energy))
        return self._energy("energy", "J", n, 1)

    @property
    def energy_per_image(self) -> Energy:
        """Joules of all GPUs, idle or not, per image (or other output) of the prompts that ended in the window."""
        work = self._work
        return self._energy("energy_per_image", f"J/{work.output}", work.outputs, work.outputs)

    @property
    def throttled(self) -> Throttled:
        """Percent of the time in which the clocks were throttled; `.reasons["sw_power_cap"]` is that for one reason."""
        points = self._points(GpuSample.throttled)
        reasons = sorted({reason for sample in self.samples for reason in sample.throttle or ()})
        shares = {reason: 100 * mean_of(self._points(_held_by(reason))) for reason in reasons}
        by_reason = {reason: share for reason, share in shares.items() if share > 0}
        throttled = Throttled.of(100 * mean_of(points), by_reason, f"{self._name}.throttled", len(points))
        throttled.absent_because = self._absent_because
        return throttled

    @property
    def devices(self) -> Mapping[str, GpuUsage]:
        """The same metrics for each GPU, by UUID or by its server's name for it.

        For example, `load.gpu.devices["GPU-4f…"]`.
        """
        return _Devices(
            (gpu, GpuUsage(samples, self._window, self._work, f"{self._name}.devices[{gpu}]", self._absent_because))
            for gpu, samples in self._by_gpu().items()
        )

    def __repr__(self) -> str:
        seen = ", ".join(self._by_gpu()) or "no samples"
        return harmless_line(f"<GpuUsage: {seen}>")

    # --- internals ---

    @property
    def _frame(self) -> Frame:
        servers = {sample.server for sample in self.samples}
        if self._work.executed is None:
            return Frame(self._window, absent_because=self._absent_because)
        executed = (times for server in servers for times in self._work.executed.get(server, ()))
        return Frame(self._window, tuple(executed), self._absent_because)

    @property
    def _busy(self) -> float | None:
        """The share of the window in which prompts were executed, averaged over servers weighted by their GPUs."""
        length = self._window[1] - self._window[0]
        executed = self._work.executed
        if length <= 0 or executed is None:
            return None
        cards = {(sample.server, sample.gpu) for sample in self.samples}
        busy = [_union(executed.get(server, ()), self._window) / length for server, _ in cards]
        return math.fsum(busy) / len(busy) if any(busy) else None

    def _gauge(self, name: str, unit: str, of: Callable[[GpuSample], float | None]) -> Gauge:
        return Gauge(f"{self._name}.{name}", unit, self._points(of), self._frame)

    def _points(self, of: Callable[[GpuSample], float | None]) -> list[Point]:
        """Return a point for each sample that has the value, with the part of its span that lies in the window."""
        return [
            Point(min(sample.time, self._window[1]), part, value)
            for sample in self.samples
            if (value := of(sample)) is not None and (part := _part(sample, self._window)) is not None
        ]

    def _energy(self, name: str, unit: str, n: int, share: int) -> Energy:
        known = [self._energy_of(samples) for samples in self._by_gpu().values()]
        # The sum is unknown if any GPU does not report its energy.
        told = [each for each in known if each is not None]
        whole = bool(known) and len(told) == len(known) and share > 0
        joules = math.fsum(each for each, _ in told) / share if whole else math.nan
        energy = Energy(joules, f"{self._name}.{name}", unit, n if whole else 0)
        energy.absent_because = self._absent_because
        energy.source = " and ".join(sorted({source for _, source in told}))
        return energy

    def _energy_of(self, samples: Sequence[GpuSample]) -> tuple[float, str] | None:
        # Two servers on one card both report it, but it used its energy only once.
        once = [sample for sample in samples if sample.server == samples[0].server]
        power = GpuUsage(once, self._window).power
        return energy_of(once, float(power.mean), self._window)

    def _by_gpu(self) -> dict[str, list[GpuSample]]:
        """Group samples by UUID; a server's own name for a GPU ("cuda:0") is another GPU on the next server."""
        servers = {sample.server for sample in self.samples}
        gpus: dict[str, list[GpuSample]] = {}
        for sample in self.samples:
            unique = len(servers) == 1 or sample.gpu.startswith(("GPU-", "MIG-"))
            gpus.setdefault(sample.gpu if unique else f"{sample.server} {sample.gpu}", []).append(sample)
        return gpus


class _Devices(dict[str, GpuUsage]):
    def __missing__(self, gpu: str) -> GpuUsage:
        raise UsageError(f"gpu.devices[{gpu!r}]: no such GPU was seen; there are: {nearest(str(gpu), self) or 'none'}")


def _held_by(reason: str) -> Callable[[GpuSample], float | None]:
    return lambda sample: sample.throttled(reason)


def _part(sample: GpuSample, window: tuple[float, float]) -> float | None:
    """Return the seconds of a sample's span in the window; None if it lies outside."""
    start, end = window
    if sample.span == 0:
        return 0.0 if start <= sample.time <= end else None
    seconds = min(end, sample.time) - max(start, sample.time - sample.span)
    return seconds if seconds > 0 else None


def _union(intervals: Iterable[tuple[float, float]], window: tuple[float, float]) -> float:
    """Return the seconds of the window that any of the intervals covers."""
    covered, reached = 0.0, window[0]
    for begin, end in sorted(intervals):
        begin, end = max(begin, reached), min(end, window[1])
        if end > begin:
            covered += end - begin
            reached = end
    return covered


class Energy(Metric):
    """Energy in joules. `source` is "counter", "power" (integrated over time), or both."""

    source: str


def energy_of(samples: Sequence[GpuSample], mean_power: float, window: tuple[float, float]) -> tuple[float, str] | None:
    """Return the joules of one GPU over the window, and their source; None if neither source is known.

    `samples` are in order of time and may lie outside the window; `mean_power` is in watts, nan if unknown.
    """
    counted = _counted([(each.time, each.energy) for each in samples if each.energy is not None], window)
    if counted is not None:
        return counted, "counter"
    return None if math.isnan(mean_power) else (mean_power * (window[1] - window[0]), "power")


def _counted(counter: Sequence[tuple[float, float]], window: tuple[float, float]) -> float | None:
    """Return the counter's increase over the window, with linear interpolation between readings at its edges.

    None if the counter decreased, or if it has too few readings.
    """
    if any(later[1] < earlier[1] for earlier, later in pairwise(counter)) or len(counter) < 2:
        return None
    start, end = max(window[0], counter[0][0]), min(window[1], counter[-1][0])
    if end <= start:
        return None
    seen = _at(counter, end) - _at(counter, start)
    # Extrapolate at the same rate if the window extends beyond the readings.
    return seen * (window[1] - window[0]) / (end - start)


def _at(counter: Sequence[tuple[float, float]], time: float) -> float:
    for (before, low), (after, high) in pairwise(counter):
        if before <= time <= after and after > before:
            return low + (high - low) * (time - before) / (after - before)
    return counter[-1][1]
