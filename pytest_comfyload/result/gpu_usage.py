"""What the GPUs did while the load ran: samples from whatever source serves a server."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GpuSample"]


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One GPU over the `span` seconds that end at `time`, seconds of the run's clock.

    None is what this source or this card does not tell; it is never a zero. `gpu` is its UUID where it has one.
    utilization: mean percent of the span in which some kernel ran. memory: bytes. temperature: °C. power: W.
    energy: joules since some moment, a counter. clock: MHz of the multiprocessors. throttle: the reasons at `time`.
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
