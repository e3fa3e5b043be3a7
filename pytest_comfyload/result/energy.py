"""What a GPU used over a window: by its own counter, or where it has none, by its power."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from pytest_comfyload.metrics.metric import Metric

if TYPE_CHECKING:
    from pytest_comfyload.result.gpu_sample import GpuSample

__all__ = ["Energy", "energy_of"]


class Energy(Metric):
    """Joules; `source` is what they come from: "counter", or "power" that was integrated over time."""

    source: str


def energy_of(samples: Sequence[GpuSample], mean_power: float, window: tuple[float, float]) -> tuple[float, str] | None:
    """Joules of one GPU over the window and their source; None where neither is known.

    `samples` in the order of time, also from outside of the window; `mean_power` in watts, nan: not known.
    """
    counted = _counted([(each.time, each.energy) for each in samples if each.energy is not None], window)
    if counted is not None:
        return counted, "counter"
    return None if math.isnan(mean_power) else (mean_power * (window[1] - window[0]), "power")


def _counted(counter: Sequence[tuple[float, float]], window: tuple[float, float]) -> float | None:
    """What the counter rose by; at the window's edges, between two looks at it, in a straight line."""
    if any(later[1] < earlier[1] for earlier, later in pairwise(counter)) or len(counter) < 2:
        return None
    start, end = max(window[0], counter[0][0]), min(window[1], counter[-1][0])
    if end <= start:
        return None
    seen = _at(counter, end) - _at(counter, start)
    # A window that reaches beyond the looks goes on as it was.
    return seen * (window[1] - window[0]) / (end - start)


def _at(counter: Sequence[tuple[float, float]], time: float) -> float:
    for (before, low), (after, high) in pairwise(counter):
        if before <= time <= after and after > before:
            return low + (high - low) * (time - before) / (after - before)
    return counter[-1][1]
