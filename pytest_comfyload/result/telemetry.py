"""Samples of GPUs and of servers' memory, and how long clocks were throttled."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from pytest_comfyload.errors import UsageError, nearest
from pytest_comfyload.metrics.metric import Metric
from pytest_comfyload.metrics.time_series import Slope, slope_of

__all__ = ["REASONS", "GpuSample", "ServerUsage", "Throttled", "Usage", "UsageSample", "reasons_of"]


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One GPU over the `span` seconds that end at `time`, in seconds of the run's clock.

    None means that the source or the card does not report a value; it is never zero. `gpu` is the UUID if it has one.

    Args:
        utilization: The mean percent of the span in which any kernel ran.
        memory_used: Bytes.
        memory_total: Bytes.
        temperature: °C.
        power: Watts.
        energy: Joules since an arbitrary moment; a counter.
        clock: MHz of the multiprocessors.
        throttle: The throttle reasons at `time`; for a sample merged from several, the reasons of any of them.
        shares: For a merged sample, the part of the span (0–1) of each reason, and of any reason under "".
    """

    server: str
    gpu: str
    time: float
    span: float = 0.0
    utilization: float | None = None
    memory_used: float | None = None
    memory_total: float | None = None
    temperature: float | None = None
    power: float | None = None
    energy: float | None = None
    clock: float | None = None
    throttle: tuple[str, ...] | None = None
    shares: tuple[tuple[str, float], ...] = ()

    def throttled(self, reason: str = "") -> float | None:
        """Return the part of the span, 0–1, in which the clocks were throttled for this reason, or for any."""
        if self.throttle is None:
            return None
        if self.shares:
            return dict(self.shares).get(reason, 0.0)
        return float(reason in self.throttle if reason else bool(self.throttle))

    @property
    def vram(self) -> float | None:
        """Memory in use, in percent of the card's memory."""
        used, total = self.memory_used, self.memory_total
        return None if used is None or not total else 100 * used / total


@dataclass(frozen=True, slots=True)
class UsageSample:
    """A reading of one server's memory, in bytes, over all its devices; `time` is in seconds of the run's clock."""

    server: str
    time: float
    ram_used: float
    vram_used: float


class Usage:
    """Bytes in use over time. Without samples, comparing its metrics raises an error."""

    def __init__(self, name: str, points: Iterable[tuple[float, float]]) -> None:
        self.name = name
        self.points = tuple(points)

    @property
    def max(self) -> Metric:
        return self._metric("max", max)

    @property
    def mean(self) -> Metric:
        return self._metric("mean", lambda values: math.fsum(values) / len(values))

    @property
    def slope(self) -> Slope:
        """Bytes per minute, with a 90 % interval, `.slope.lower` to `.slope.upper`."""
        return slope_of(self.points, self.name, "B")

    def _metric(self, what: str, of: Callable[[list[float]], float]) -> Metric:
        values = [value for _, value in self.points]
        return Metric(of(values) if values else math.nan, f"{self.name}.{what}", "B", len(values))


@dataclass(frozen=True, slots=True)
class ServerUsage:
    """`load.server`: `ram_used` is that of the whole machine, `vram_used` what torch and the driver report as used."""

    samples: tuple[UsageSample, ...]

    @property
    def ram_used(self) -> Usage:
        return Usage("server.ram_used", ((sample.time, sample.ram_used) for sample in self.samples))

    @property
    def vram_used(self) -> Usage:
        return Usage("server.vram_used", ((sample.time, sample.vram_used) for sample in self.samples))


# Clocks set by a user, and those of an idle GPU, do not count as throttled.
REASONS = ("sw_power_cap", "hw_slowdown", "sync_boost", "sw_thermal", "hw_thermal", "hw_power_brake")


class Throttled(Metric):
    """Percent of the time; `reasons["sw_power_cap"]` is that for one reason. Several can apply at the same time."""

    reasons: _Reasons

    @classmethod
    def of(cls, percent: float, by_reason: Mapping[str, float], name: str, n: int) -> Throttled:
        throttled = cls(percent, name, "%", n)
        throttled.reasons = _Reasons(name, by_reason, n)
        return throttled


class _Reasons(dict[str, Metric]):
    """Percent of the time by reason; 0 % for a reason that never applied."""

    KEYS: ClassVar = REASONS

    def __init__(self, name: str, by_reason: Mapping[str, float], n: int) -> None:
        super().__init__((reason, Metric(share, f"{name}[{reason}]", "%", n)) for reason, share in by_reason.items())
        self._name = name
        self._n = n

    def __missing__(self, reason: str) -> Metric:
        if reason not in REASONS:
            raise UsageError(f"{self._name}.reasons[{reason!r}]: legal: {nearest(str(reason), REASONS)}")
        return Metric(0.0, f"{self._name}[{reason}]", "%", self._n)


# NVML's nvmlClocksEventReason*, DCGM's DCGM_CLOCKS_EVENT_REASON_*, in the order of REASONS.
_BITS = (0x04, 0x08, 0x10, 0x20, 0x40, 0x80)


def reasons_of(mask: int) -> tuple[str, ...]:
    return tuple(reason for bit, reason in zip(_BITS, REASONS, strict=True) if mask & bit)
