"""What the hardware of the GPUs reported as faults since the watch began: XID events and memory errors."""

from __future__ import annotations

import contextlib
import ctypes
from collections import Counter
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from pytest_comfyload.gpu.nvml_devices import short
from pytest_comfyload.gpu.nvml_library import GpuLost, Question

__all__ = ["NvmlFaults"]

_AT_ONCE = 100
_XIDS = {
    13: "a kernel's error on the GPU",
    31: "a kernel touched memory that is not its own",
    43: "a process was stopped on the GPU",
    48: "a memory error that could not be corrected",
    63: "a memory page or row was retired",
    64: "a memory page or row could not be retired",
    74: "an NVLink error",
    79: "the GPU fell off the bus",
    94: "a contained memory error",
    95: "an uncontained memory error",
    119: "the GPU's own processor did not answer",
}


class NvmlFaults:
    """Faults of cards, `cards` their handles by UUID."""

    def __init__(self, binding: ModuleType, cards: Mapping[str, Any]) -> None:
        self._binding = binding
        self._cards = dict(cards)
        self._xids: Counter[tuple[str, int]] = Counter()
        self._events = _subscribed(binding, self._cards.values())
        self._counters = {
            (uuid, kind): Question(binding, handle, ("nvmlDeviceGetTotalEccErrors", kind, binding.NVML_VOLATILE_ECC))
            for uuid, handle in self._cards.items()
            for kind in (binding.NVML_MEMORY_ERROR_TYPE_CORRECTED, binding.NVML_MEMORY_ERROR_TYPE_UNCORRECTED)
        }
        self._first = self._counted()
        self._last = dict(self._first)

    def poll(self) -> None:
        """Takes note of what is new; a lost GPU is somebody else's to report."""
        for event in self._new_events():
            self._xids[self._uuid_of(event.device), event.eventData] += 1
        self._last |= self._counted()

    def close(self) -> None:
        if self._events is not None:
            with contextlib.suppress(self._binding.NVMLError):
                self._binding.nvmlEventSetFree(self._events)

    @property
    def sentences(self) -> tuple[str, ...]:
        return (*self._xid_sentences(), *self._ecc_sentences())

    def _new_events(self) -> Iterator[Any]:
        if self._events is None:
            return
        # The end of the events is an error, a timeout; a GPU in trouble may have more than we want to hear at once.
        with contextlib.suppress(self._binding.NVMLError):
            for _ in range(_AT_ONCE):
                yield self._binding.nvmlEventSetWait_v2(self._events, 0)

    def _uuid_of(self, device: Any) -> str:
        # A GPU that has fallen off the bus no longer tells its UUID, but its handle is still the one we hold.
        return next((uuid for uuid, handle in self._cards.items() if _address(handle) == _address(device)), "a GPU")

    def _counted(self) -> dict[tuple[str, int], int]:
        counts = {}
        for key, ask in self._counters.items():
            with contextlib.suppress(GpuLost):
                counts[key] = ask()
        return {key: count for key, count in counts.items() if count is not None}

    def _xid_sentences(self) -> Iterator[str]:
        for (uuid, xid), times in list(self._xids.items()):
            meaning = f" ({_XIDS[xid]})" if xid in _XIDS else ""
            yield f"{short(uuid)} reported XID {xid}{meaning}{f', {times} times' if times > 1 else ''}"

    def _ecc_sentences(self) -> Iterator[str]:
        for (uuid, kind), count in list(self._last.items()):
            errors = count - self._first.get((uuid, kind), count)
            if errors > 0:
                corrected = kind == self._binding.NVML_MEMORY_ERROR_TYPE_CORRECTED
                fate = "corrected" if corrected else "could not correct"
                yield f"{short(uuid)}: {errors} memory error{'s' if errors > 1 else ''} that ECC {fate}"


def _subscribed(binding: ModuleType, handles: Any) -> Any:
    """An event set for the XIDs of these cards; None where the system has no events."""
    try:
        events = binding.nvmlEventSetCreate()
    except binding.NVMLError:
        return None
    for handle in handles:
        with contextlib.suppress(binding.NVMLError):
            binding.nvmlDeviceRegisterEvents(handle, binding.nvmlEventTypeXidCriticalError, events)
    return events


def _address(handle: Any) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
