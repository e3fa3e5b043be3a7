"""What the servers' memory was while the load ran, as /system_stats tells it every few seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pytest_comfyload.metrics.metric import Metric
from pytest_comfyload.metrics.time_series import Slope, slope_of

__all__ = ["ServerUsage", "Usage", "UsageSample"]


@dataclass(frozen=True, slots=True)
class UsageSample:
    """One look at one server. `time` is seconds of the run's clock, the rest bytes; of all its devices together."""

    server: str
    time: float
    ram_used: float
    vram_used: float


class Usage:
    """Bytes in use over time. Without samples its metrics refuse to be compared."""

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
        """Bytes per minute, with a 90 % interval: `.slope.lower`, `.slope.upper`."""
        return slope_of(self.points, self.name, "B")

    def _metric(self, what: str, of: Callable[[list[float]], float]) -> Metric:
        values = [value for _, value in self.points]
        return Metric(of(values) if values else math.nan, f"{self.name}.{what}", "B", len(values))


@dataclass(frozen=True, slots=True)
class ServerUsage:
    """`load.server`. `ram_used` is the whole machine's, `vram_used` what torch and the driver count as taken."""

    samples: tuple[UsageSample, ...]

    @property
    def ram_used(self) -> Usage:
        return Usage("server.ram_used", ((sample.time, sample.ram_used) for sample in self.samples))

    @property
    def vram_used(self) -> Usage:
        return Usage("server.vram_used", ((sample.time, sample.vram_used) for sample in self.samples))
