"""Downsampling of stored series: enough is kept to draw them and to find their peaks.

The figures of a run are computed from the full series.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from pytest_comfyload.protocol.timeline import evenly_thinned
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.telemetry import GpuSample, UsageSample

__all__ = ["MOST_POINTS", "thinned_gpu", "thinned_steps", "thinned_usage"]

MOST_POINTS = 600
_MOST_STEPS = 4

T = TypeVar("T")


def thinned_gpu(samples: Sequence[GpuSample], most: int = MOST_POINTS) -> tuple[GpuSample, ...]:
    """Reduce the series of each GPU to at most `most` samples, by merging neighbours into one over their joint span.

    A merged sample has the highest memory, temperature and clock, the mean utilization and power weighted by span,
    which preserves the overall mean, and all throttle reasons.
    """
    return _thinned(samples, lambda sample: (sample.server, sample.gpu), _merged_gpu, most)


def thinned_usage(samples: Sequence[UsageSample], most: int = MOST_POINTS) -> tuple[UsageSample, ...]:
    """Reduce the series of each server to at most `most` samples, with the highest values of merged neighbours."""
    return _thinned(samples, lambda sample: sample.server, _merged_usage, most)


def thinned_steps(outcome: Outcome) -> Outcome:
    """Reduce each node's progress steps to a few, including the first and the last."""
    if outcome.timeline is None or all(len(node.steps) <= _MOST_STEPS for node in outcome.nodes):
        return outcome
    nodes = tuple(replace(node, steps=evenly_thinned(node.steps, _MOST_STEPS)) for node in outcome.nodes)
    return replace(outcome, timeline=replace(outcome.timeline, nodes=nodes))


def _thinned(
    samples: Iterable[T], series_of: Callable[[T], object], merged: Callable[[Sequence[T]], T], most: int
) -> tuple[T, ...]:
    series: dict[object, list[T]] = {}
    for sample in samples:
        series.setdefault(series_of(sample), []).append(sample)
    return tuple(
        merged(points[begin : begin + size])
        for points in series.values()
        for size in (max(1, math.ceil(len(points) / most)),)
        for begin in range(0, len(points), size)
    )


def _merged_gpu(samples: Sequence[GpuSample]) -> GpuSample:
    if len(samples) == 1:
        return samples[0]
    throttles = [sample.throttle for sample in samples if sample.throttle is not None]
    return replace(
        samples[-1],
        span=math.fsum(sample.span for sample in samples),
        utilization=_mean([(sample.utilization, sample.span) for sample in samples]),
        power=_mean([(sample.power, sample.span) for sample in samples]),
        memory_used=_highest(sample.memory_used for sample in samples),
        temperature=_highest(sample.temperature for sample in samples),
        clock=_highest(sample.clock for sample in samples),
        throttle=tuple(sorted({reason for each in throttles for reason in each})) if throttles else None,
    )


def _merged_usage(samples: Sequence[UsageSample]) -> UsageSample:
    return replace(
        samples[-1],
        ram_used=max(sample.ram_used for sample in samples),
        vram_used=max(sample.vram_used for sample in samples),
    )


def _mean(weighted: Iterable[tuple[float | None, float]]) -> float | None:
    """Return the mean weighted by span; the unweighted mean if all spans are zero."""
    known = [(value, span) for value, span in weighted if value is not None]
    total = math.fsum(span for _, span in known)
    if not total:
        return math.fsum(value for value, _ in known) / len(known) if known else None
    return math.fsum(value * span for value, span in known) / total


def _highest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
