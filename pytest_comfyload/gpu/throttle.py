"""Why a GPU's clocks are held down, as NVML's bit mask says it and as we name it."""

from __future__ import annotations

from pytest_comfyload.result.throttling import REASONS

__all__ = ["reasons_of"]

# NVML's nvmlClocksEventReason*, DCGM's DCGM_CLOCKS_EVENT_REASON_*, in the order of REASONS.
_BITS = (0x04, 0x08, 0x10, 0x20, 0x40, 0x80)


def reasons_of(mask: int) -> tuple[str, ...]:
    return tuple(reason for bit, reason in zip(_BITS, REASONS, strict=True) if mask & bit)
