"""How a measured value drifts: the straight line of least squares through (time, value), with its 90 % interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pytest_comfyload.queueing.replay import Interval
from pytest_comfyload.result.metric import Metric

__all__ = ["Slope", "slope_of"]

# Student's t, 95th percentile, for 1 to 30 degrees of freedom; NIST's table.
_T95 = (
    6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771, 1.761, 1.753,
    1.746, 1.740, 1.734, 1.729, 1.725, 1.721, 1.717, 1.714, 1.711, 1.708, 1.706, 1.703, 1.701, 1.699, 1.697,
)  # fmt: skip
_Z95 = 1.6448536269514722


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
    return slope, _t95(n - 2) * math.sqrt(residual / (n - 2) / spread)


def _t95(freedom: int) -> float:
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    z, v = _Z95, freedom
    # Cornish and Fisher's expansion: exact to four digits here.
    return z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
