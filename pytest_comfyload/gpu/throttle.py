"""Why a GPU's clocks are held down, as NVML's bit mask says it and as we name it.

An idle GPU and clocks that somebody set are no throttling.
"""

from __future__ import annotations

__all__ = ["reasons_of"]

# NVML's nvmlClocksEventReason*.
_REASONS = {
    0x04: "sw_power_cap",
    0x08: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "hw_power_brake",
}


def reasons_of(mask: int) -> tuple[str, ...]:
    return tuple(name for bit, name in _REASONS.items() if mask & bit)
