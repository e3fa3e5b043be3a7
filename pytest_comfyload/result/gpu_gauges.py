"""One GPU quantity over a window: its time-weighted mean, its extremes, and an interval for the mean.

With several GPUs, the mean is over all of them, and the extremes are of any one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_comfyload.metrics.assessment import Estimate, Inconclusive, Threshold
from pytest_comfyload.metrics.intervals import Interval, weighted_percentile
from pytest_comfyload.metrics.metric import Metric
from pytest_comfyload.metrics.time_series import Point, Slope, block_interval, no_interval_because, slope_of

__all__ = ["ClockGauge", "Frame", "Gauge", "MemoryGauge", "OverTime", "UtilizationGauge", "VramGauge", "mean_of"]


@dataclass(frozen=True, slots=True)
class Frame:
    """The measured window, and (begin, end) of every prompt that was executed on any server.

    `executed` is None if that is unknown. `absent_because` says why there may be no samples.
    """

    window: tuple[float, float]
    executed: tuple[tuple[float, float], ...] | None = None
    absent_because: str = Metric.absent_because


class OverTime(Estimate):
    """The mean of a gauge times a factor, with an interval from ten equal blocks of the window, computed on demand."""

    def __init__(self, gauge: Gauge, factor: float) -> None:
        self._gauge = gauge
        self._factor = factor

    @property
    def interval(self) -> Interval | None:
        gauge = self._gauge
        ends = block_interval(gauge.points, gauge.frame.window, gauge.frame.executed)
        if ends is None:
            return Interval(-math.inf, math.inf)
        return Interval(max(0.0, ends[0] * self._factor), min(gauge.most, ends[1] * self._factor))

    def doubt(self, claim: Threshold) -> Inconclusive:
        gauge = self._gauge
        why = no_interval_because(gauge.points, gauge.frame.window, gauge.frame.executed)
        return (
            super().doubt(claim)
            if why is None
            else Inconclusive(why, "a longer load, busy in all of its parts", few=True)
        )


class Gauge:
    """One quantity over the window of `frame`; all `points` lie in it."""

    def __init__(self, name: str, unit: str, points: Sequence[Point], frame: Frame) -> None:
        self.name = name
        self.unit = unit
        self.points = tuple(points)
        self.frame = frame

    @property
    def most(self) -> float:
        """The upper limit of the values: 100 for percentages, otherwise infinite."""
        return 100.0 if self.unit == "%" else math.inf

    @property
    def mean(self) -> Metric:
        """The time-weighted mean."""
        return self._estimate("mean", 1.0)

    @property
    def max(self) -> Metric:
        return self.highest("max")

    def highest(self, what: str) -> Metric:
        """Return the greatest value, as the statistic named `what`."""
        return self._extreme(what, [max(point.value for point in self.points)] if self.points else [])

    def _extreme(self, what: str, value: Sequence[float]) -> Metric:
        return self._explained(
            Metric(value[0] if value else math.nan, f"{self.name}.{what}", self.unit, len(self.points))
        )

    def _estimate(self, what: str, factor: float) -> Metric:
        """Return the mean times a factor; its interval is scaled with it."""
        value = min(mean_of(self.points) * factor, self.most)
        metric = Metric(value, f"{self.name}.{what}", self.unit, len(self.points), evidence=OverTime(self, factor))
        return self._explained(metric)

    def _explained(self, metric: Metric) -> Metric:
        metric.absent_because = self.frame.absent_because
        return metric


class ClockGauge(Gauge):
    """A clock frequency in MHz."""

    @property
    def min(self) -> Metric:
        return self._extreme("min", [min(point.value for point in self.points)] if self.points else [])


class VramGauge:
    """Memory in use; the peak is that of the fullest card."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge

    @property
    def peak(self) -> Metric:
        return self._gauge.highest("peak")

    @property
    def mean(self) -> Metric:
        return self._gauge.mean


class MemoryGauge(VramGauge):
    """Memory in use, in bytes."""

    @property
    def slope(self) -> Slope:
        """Bytes per minute, with a 90 % interval, `.slope.lower` to `.slope.upper`."""
        gauge = self._gauge
        return slope_of([(point.time, point.value) for point in gauge.points], gauge.name, gauge.unit)


class UtilizationGauge(Gauge):
    """Percent of the time in which any kernel ran.

    `busy` is the share of the window (0–1) in which prompts were executed; None if none was, or if that is unknown.
    """

    def __init__(self, name: str, points: Sequence[Point], frame: Frame, busy: float | None) -> None:
        super().__init__(name, "%", points, frame)
        self._busy = busy

    @property
    def p95(self) -> Metric:
        """The utilization that was not exceeded in 95 % of the time."""
        weighted = zip((point.value for point in self.points), _weights(self.points), strict=True)
        return self._extreme("p95", [weighted_percentile(weighted, 95)] if self.points else [])

    @property
    def busy_mean(self) -> Metric:
        """The mean over the time in which prompts were executed.

        This is the mean over the window divided by `busy`: each sample averages over a span, so that samples cannot be
        selected by prompt.
        """
        if self._busy is None:
            return UtilizationGauge(self.name, (), self.frame, 1.0)._estimate("busy_mean", 1.0)
        return self._estimate("busy_mean", 1 / self._busy)


def mean_of(points: Sequence[Point]) -> float:
    """Return the mean, weighted by the points' spans; nan without points."""
    if not points:
        return math.nan
    weights = _weights(points)
    return math.fsum(weight * point.value for weight, point in zip(weights, points, strict=True)) / math.fsum(weights)


def _weights(points: Sequence[Point]) -> list[float]:
    """Return the weights in seconds; the first reading of a GPU has no span, and counts only if there is no other."""
    weights = [point.span for point in points]
    return weights if any(weights) else [1.0] * len(points)
