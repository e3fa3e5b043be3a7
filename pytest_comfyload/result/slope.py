"""How a measured value drifts: the straight line of least squares through (time, value), with its 90 % interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pytest_comfyload.queueing.replay import Interval
from pytest_comfyload.result.intervals import t95
from pytest_comfyload.result.metric import Metric

__all__ = ["Slope", "slope_of"]


class Slope(Metric):
    """Per minute. `lower` and `upper` bound it at 90 %, two-sided; with fewer than three points they are infinite.

    The interval takes the points as independent: for times that wait for each other it is too narrow.
    """


def slope_of(points: Sequence[tuple[float, float]], name: str, unit: str) -> Slope:
    """Through (seconds, value) points. With fewer than two different times nothing drifts: `n` is 0."""
    line = _fit(points)
    n = 0 if line is None else len(points)
    per_minute, reach = (math.nan, math.nan) if line is None else line
    return Slope(per_minute, f"{name}.slope", f"{unit}/min", n, Interval(per_minute - reach, per_minute + reach))


def _fit(points: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """The slope per minute and half the width of its interval."""
    n = len(points)
    if n < 2:
        return None
    mean_time = math.fsum(time for time, _ in points) / n
    mean_value = math.fsum(value for _, value in points) / n
    centred = [((time - mean_time) / 60, value - mean_value) for time, value in points]
    spread = math.fsum(time * time for time, _ in centred)
    if spread == 0:
        return None
    slope = math.fsum(time * value for time, value in centred) / spread
    if n == 2:
        return slope, math.inf
    residual = math.fsum((value - slope * time) ** 2 for time, value in centred)
    return slope, t95(n - 2) * math.sqrt(residual / (n - 2) / spread)
