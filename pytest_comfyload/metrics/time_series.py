"""Means and slopes of values sampled over time, with their intervals.

Neighbouring samples are not independent; an interval that treated them so could cover the truth only one time in four.
Blocks that contain whole periods of work and of waiting are nearly independent.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from pytest_comfyload.metrics.intervals import Interval, t_quantile
from pytest_comfyload.metrics.metric import Metric

__all__ = ["BLOCKS", "LEAST_WINDOW", "Point", "Slope", "block_interval", "no_interval_because", "slope_of"]

BLOCKS = 10
# Seconds of the run's clock.
LEAST_WINDOW = 60.0


class Point(NamedTuple):
    """The mean `value` over the `span` seconds that end at `time`."""

    time: float
    span: float
    value: float


def block_interval(
    points: Sequence[Point], window: tuple[float, float], prompts: Sequence[tuple[float, float]] | None
) -> tuple[float, float] | None:
    """Return the two-sided 90 % bounds of the mean; None if there are none, and `no_interval_because` says why.

    `prompts` are (begin, end) of the executed prompts; None if they are unknown, and no work is expected.
    """
    if no_interval_because(points, window, prompts) is not None:
        return None
    means = [total / weight for weight, total in _blocks(points, window)]
    mean = statistics.fmean(means)
    reach = t_quantile(0.95, BLOCKS - 1) * statistics.stdev(means) / math.sqrt(BLOCKS)
    return mean - reach, mean + reach


def no_interval_because(
    points: Sequence[Point], window: tuple[float, float], prompts: Sequence[tuple[float, float]] | None
) -> str | None:
    """Return why there is no interval; None if there is one."""
    if window[1] - window[0] < LEAST_WINDOW:
        return f"a window of {window[1] - window[0]:.0f} s is shorter than {LEAST_WINDOW:.0f} s"
    executed = [Point(end, end - begin, 1.0) for begin, end in prompts or ()]
    if prompts is not None and not all(weight for weight, _ in _blocks(executed, window)):
        return f"no prompt was executed in one of its {BLOCKS} parts"
    if not all(weight for weight, _ in _blocks(points, window)):
        return f"there are no samples in one of its {BLOCKS} parts"
    return None


def _blocks(points: Sequence[Point], window: tuple[float, float]) -> list[tuple[float, float]]:
    """Return, for each block, the seconds of spans in it, and the sum of the values times these seconds."""
    weights, totals = [0.0] * BLOCKS, [0.0] * BLOCKS
    start, size = window[0], (window[1] - window[0]) / BLOCKS
    for time, span, value in points:
        first, last = ((at - start) / size for at in (time - span, time))
        for block in range(max(0, math.floor(first)), min(BLOCKS, math.ceil(last))):
            seconds = size * (min(last, block + 1) - max(first, block))
            weights[block] += seconds
            totals[block] += seconds * value
    return list(zip(weights, totals, strict=True))


class Slope(Metric):
    """A slope per minute. `lower` and `upper` are its two-sided 90 % bounds, infinite with fewer than three points.

    The interval treats the points as independent, so it is too narrow for times of prompts that wait for each other.
    """


def slope_of(points: Sequence[tuple[float, float]], name: str, unit: str) -> Slope:
    """Return the slope through (seconds, value) points; with fewer than two different times, its `n` is 0."""
    line = _fit(points)
    n = 0 if line is None else len(points)
    per_minute, reach = (math.nan, math.nan) if line is None else line
    return Slope(per_minute, f"{name}.slope", f"{unit}/min", n, Interval(per_minute - reach, per_minute + reach))


def _fit(points: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """Return the slope per minute, and half the width of its interval; None without two different times."""
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
    return slope, t_quantile(0.95, n - 2) * math.sqrt(residual / (n - 2) / spread)
