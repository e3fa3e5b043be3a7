"""Change points in a history of runs: E-divisive in sliding windows, with each point tested against both of its sides.

Source: Matteson and James, "A nonparametric approach for multiple change point analysis" (2014), with Student's t test
instead of permutations, so that equal histories give equal change points.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_comfyload.metrics.intervals import t_cdf

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ChangePoint", "change_points"]

WINDOW = 50
P = 0.001
FEWEST = 5
LEAST = 0.05


@dataclass(frozen=True, slots=True)
class ChangePoint:
    """A change of level: `index` is the first run on the new level, `before` and `after` the medians of both sides."""

    index: int
    before: float
    after: float

    @property
    def change(self) -> float:
        """The change in percent; infinite if the level before was 0."""
        return 100 * (self.after / self.before - 1) if self.before else math.copysign(math.inf, self.after)


def change_points(values: Sequence[float], window: int = WINDOW) -> tuple[ChangePoint, ...]:
    """Find the change points of finite values that are in the order of commits.

    Both sides of a change point have at least 5 runs, and their medians differ by at least 5 %.
    """
    import numpy as np

    series = np.asarray(values, dtype=float)
    found: set[int] = set()
    for start in range(0, max(1, len(series) - window // 2), window // 2):
        end = min(len(series), start + window)
        found.update(_splits(series[start:end], start))
    return _kept(series, sorted(found), window)


def _splits(series: NDArray[Any], offset: int) -> list[int]:
    """Split at the best place, and split each side again, as long as the two sides differ."""
    if len(series) < FEWEST:
        return []
    at = _best_split(series)
    if _p(series[:at], series[at:]) >= P:
        return []
    return [*_splits(series[:at], offset), offset + at, *_splits(series[at:], offset + at)]


def _best_split(series: NDArray[Any]) -> int:
    """Return the split with the greatest energy distance between its sides, weighted by nm/(n+m)."""
    import numpy as np

    total = len(series)
    sums = np.zeros((total + 1, total + 1))
    sums[1:, 1:] = np.abs(series[:, None] - series[None, :]).cumsum(0).cumsum(1)
    # At least two on each side: a step with fewer than five runs after it must not be placed too early.
    at = np.arange(2, total - 1)
    n, m = at.astype(float), (total - at).astype(float)
    left, across = sums[at, at], sums[at, total] - sums[at, at]
    right = sums[total, total] - left - 2 * across
    energy = 2 * across / (n * m) - left / (n * (n - 1)) - right / (m * (m - 1))
    return int(at[np.argmax(energy * n * m / (n + m))])


def _kept(series: NDArray[Any], marks: list[int], window: int) -> tuple[ChangePoint, ...]:
    """Drop the weakest mark and test the others again with the longer sides that this leaves, until all pass."""
    while marks:
        edges = [0, *marks, len(series)]
        sides = [
            (series[max(edges[k - 1], edges[k] - window) : edges[k]], series[edges[k] : edges[k + 1]][:window])
            for k in range(1, len(edges) - 1)
        ]
        weak = [_weakness(before, after) for before, after in sides]
        if max(weak) < P:
            return tuple(
                ChangePoint(mark, statistics.median(before.tolist()), statistics.median(after.tolist()))
                for mark, (before, after) in zip(marks, sides, strict=True)
            )
        del marks[weak.index(max(weak))]
    return ()


def _weakness(before: NDArray[Any], after: NDArray[Any]) -> float:
    """Return the p-value of the two sides; 1 or more if they are too short, or differ by too little to matter."""
    if min(len(before), len(after)) < FEWEST:
        return 2.0
    low, high = sorted((statistics.median(before.tolist()), statistics.median(after.tolist())))
    alike = high - low < LEAST * abs(low)
    return 1.0 if alike else _p(before, after)


def _p(before: NDArray[Any], after: NDArray[Any]) -> float:
    """Return the p-value of Student's two-sided t test with a common variance."""
    n, m = len(before), len(after)
    pooled = ((n - 1) * before.var(ddof=1) + (m - 1) * after.var(ddof=1)) / (n + m - 2)
    distance = abs(float(before.mean() - after.mean()))
    if pooled == 0:
        return float(distance == 0)
    return 2 * (1 - t_cdf(distance / math.sqrt(float(pooled) * (1 / n + 1 / m)), n + m - 2))
