"""For how much of the time the GPUs' clocks were held down, and by what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pytest_comfyload.errors import UsageError, nearest
from pytest_comfyload.metrics.metric import Metric

__all__ = ["REASONS", "Throttled"]

# Clocks that somebody set, and those of an idle GPU, are not held down.
REASONS = ("sw_power_cap", "hw_slowdown", "sync_boost", "sw_thermal", "hw_thermal", "hw_power_brake")


class Throttled(Metric):
    """Percent of the time; `reasons["sw_power_cap"]` that for one reason: several can hold at a time."""

    reasons: _Reasons

    @classmethod
    def of(cls, percent: float, by_reason: Mapping[str, float], name: str, n: int) -> Throttled:
        throttled = cls(percent, name, "%", n)
        throttled.reasons = _Reasons(name, by_reason, n)
        return throttled


class _Reasons(dict[str, Metric]):
    """A reason that never held is 0 %."""

    KEYS: ClassVar = REASONS

    def __init__(self, name: str, by_reason: Mapping[str, float], n: int) -> None:
        super().__init__((reason, Metric(share, f"{name}[{reason}]", "%", n)) for reason, share in by_reason.items())
        self._name = name
        self._n = n

    def __missing__(self, reason: str) -> Metric:
        if reason not in REASONS:
            raise UsageError(f"{self._name}.reasons[{reason!r}]: legal are {nearest(str(reason), REASONS)}")
        return Metric(0.0, f"{self._name}[{reason}]", "%", self._n)
