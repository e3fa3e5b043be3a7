"""What one look at a GPU told."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GpuSample"]


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One GPU over the `span` seconds that end at `time`, seconds of the run's clock.

    None is what this source or this card does not tell; it is never a zero. `gpu` is its UUID where it has one.
    utilization: mean percent of the span in which some kernel ran. memory: bytes. temperature: °C. power: W.
    energy: joules since some moment, a counter. clock: MHz of the multiprocessors. throttle: the reasons at `time`;
    of a sample that several were merged into, those of any of them, and `shares` has the part of the span (0–1) that
    each held for, under "" that for which any did.
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
    shares: tuple[tuple[str, float], ...] = ()

    def throttled(self, reason: str = "") -> float | None:
        """The part of the span, 0–1, in which the clocks were held down for that reason, or for any."""
        if self.throttle is None:
            return None
        if self.shares:
            return dict(self.shares).get(reason, 0.0)
        return float(reason in self.throttle if reason else bool(self.throttle))

    @property
    def vram(self) -> float | None:
        """Percent of the card's memory in use."""
        used, total = self.memory_used, self.memory_total
        return None if used is None or not total else 100 * used / total
