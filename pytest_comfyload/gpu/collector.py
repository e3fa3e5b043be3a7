"""Collection of a load's GPU samples in bounded memory: if there are too many, neighbouring samples are merged.

A merged sample is accurate for its span: utilization, power and clock are time-weighted means, memory and temperature
are maxima, energy is the last reading, and throttling has the share of the span in which it occurred. The first sample,
from which energy is counted, and the peaks of utilization and power are never merged.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from pytest_comfyload.result.telemetry import GpuSample

__all__ = ["MOST_SAMPLES", "GpuCollector", "merged"]

# Per GPU: more than an hour at one sample per second.
MOST_SAMPLES = 4000


class GpuCollector:
    """Collector of samples; `keep` may be called from any thread."""

    def __init__(self, most: int = MOST_SAMPLES) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str], list[GpuSample]] = {}

    def keep(self, sample: GpuSample) -> None:
        with self._lock:
            kept = self._kept.setdefault((sample.server, sample.gpu), [])
            kept.append(sample)
            if len(kept) > self._most:
                kept[:] = _halved(kept)

    @property
    def samples(self) -> tuple[GpuSample, ...]:
        """The samples of all GPUs, in chronological order."""
        with self._lock:
            return tuple(sorted((each for kept in self._kept.values() for each in kept), key=lambda each: each.time))


def _halved(samples: Sequence[GpuSample]) -> list[GpuSample]:
    alone = {id(samples[0]), id(_peak(samples, "utilization")), id(_peak(samples, "power"))}
    halved: list[GpuSample] = []
    waiting: GpuSample | None = None
    for sample in samples:
        if id(sample) in alone:
            halved += [sample] if waiting is None else [waiting, sample]
            waiting = None
        elif waiting is None:
            waiting = sample
        else:
            halved.append(merged(waiting, sample))
            waiting = None
    return halved if waiting is None else [*halved, waiting]


def _peak(samples: Sequence[GpuSample], name: str) -> GpuSample:
    return max(samples, key=lambda sample: -1.0 if (value := getattr(sample, name)) is None else float(value))


def merged(first: GpuSample, second: GpuSample) -> GpuSample:
    """Merge two neighbouring samples of the same GPU, given in chronological order."""
    span = first.span + second.span
    part = second.span / span if span else 0.5

    def mean(name: str) -> float | None:
        return _both(first, second, name, lambda a, b: a + (b - a) * part)

    def greatest(name: str) -> float | None:
        return _both(first, second, name, max)

    throttle, shares = _throttling(first, second, part)
    return GpuSample(
        server=second.server,
        gpu=second.gpu,
        time=second.time,
        span=span,
        utilization=mean("utilization"),
        memory_used=greatest("memory_used"),
        memory_total=greatest("memory_total"),
        temperature=greatest("temperature"),
        power=mean("power"),
        energy=_both(first, second, "energy", lambda a, b: b),
        clock=mean("clock"),
        throttle=throttle,
        shares=shares,
    )


def _both(first: GpuSample, second: GpuSample, name: str, of: Callable[[float, float], float]) -> float | None:
    """Combine a figure of two samples; if one lacks it, use the other's for both."""
    a: float | None = getattr(first, name)
    b: float | None = getattr(second, name)
    if a is None or b is None:
        return b if a is None else a
    return of(a, b)


def _throttling(
    first: GpuSample, second: GpuSample, part: float
) -> tuple[tuple[str, ...] | None, tuple[tuple[str, float], ...]]:
    if first.throttle is None or second.throttle is None:
        told = second if first.throttle is None else first
        return told.throttle, told.shares
    reasons = tuple(sorted({*first.throttle, *second.throttle}))

    def share(reason: str) -> float:
        a, b = first.throttled(reason) or 0.0, second.throttled(reason) or 0.0
        return a + (b - a) * part

    return reasons, tuple((reason, share(reason)) for reason in ("", *reasons))
