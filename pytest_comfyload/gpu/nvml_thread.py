"""Thread that reads GPUs ten times a second, and counts XID events and memory errors.

A late reading skips the deadlines that it missed, so readings never bunch up. A lost GPU is reported once.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from types import ModuleType
from typing import Any

from pytest_comfyload.errors import UsageError
from pytest_comfyload.gpu.nvml_devices import GpuLost, GpuProcess, NvmlDevice, Question, opened, short
from pytest_comfyload.gpu.nvml_reader import NvmlReader
from pytest_comfyload.gpu.spec import Keep, Now

__all__ = ["PERIOD", "NvmlFaults", "NvmlWatch", "next_deadline"]

# Seconds between two readings.
PERIOD = 0.1
# Readings between two polls of processes and faults, which cost more and change less often.
_SELDOM = 10
# Seconds to wait at the end of a watch for a driver that does not return.
_PATIENCE = 2.0


class NvmlWatch:
    """A watch over `devices`, from `start` to `stop`; `keep` is called with each sample, from the thread."""

    def __init__(self, server: str, devices: Sequence[NvmlDevice], keep: Keep, now: Now) -> None:
        self._server = server
        self._devices = devices
        self._keep = keep
        self._now = now
        self._stopping = threading.Event()
        self._given_up = False
        self._lost: list[str] = []
        self._faults: NvmlFaults | None = None
        self._processes: dict[tuple[str, int], GpuProcess] = {}
        self._begun: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="comfyload-nvml", daemon=True)

    @property
    def losses(self) -> tuple[str, ...]:
        return (*self._lost, *(self._faults.sentences if self._faults else ()))

    @property
    def processes(self) -> tuple[GpuProcess, ...]:
        """The processes with a context on the GPUs, each with its peak memory."""
        return tuple(self._processes.values())

    async def start(self) -> None:
        """Start the thread and wait until every GPU was found. Raises: UsageError."""
        self._thread.start()
        await asyncio.wrap_future(self._begun)

    async def stop(self) -> None:
        """Stop after a last reading; wait at most `_PATIENCE` seconds if the driver hangs."""
        self._stopping.set()
        await asyncio.to_thread(self._thread.join, _PATIENCE)
        if self._thread.is_alive():
            self._given_up = True
            self._lost.append(f"NVML did not answer for {_PATIENCE:.0f} s in the end")

    def _run(self) -> None:
        self._begun.set_running_or_notify_cancel()
        try:
            with opened() as binding, self._readers(binding) as readers:
                self._begun.set_result(None)
                self._read_on(readers)
        except Exception as error:
            # Regardless of the error, the load continues without us.
            if self._begun.done():
                self._lost.append(f"NVML could not be read after {self._now():.1f} s: {error}")
            else:
                self._begun.set_exception(error)

    @contextlib.contextmanager
    def _readers(self, binding: ModuleType) -> Iterator[list[NvmlReader]]:
        readers = [_reader(binding, device, self._now()) for device in self._devices]
        faults = NvmlFaults(binding, {reader.device.card or reader.device.uuid: reader.card for reader in readers})
        self._faults = faults
        try:
            yield readers
        finally:
            faults.close()

    def _read_on(self, readers: list[NvmlReader]) -> None:
        turn, due, last = 0, time.monotonic(), False
        while readers and not last:
            last = self._stopping.wait(due - time.monotonic())
            for reader in tuple(readers):
                if not self._read(reader, seldom=last or turn % _SELDOM == 0):
                    readers.remove(reader)
            if self._faults and (last or turn % _SELDOM == 0 or not readers):
                self._faults.poll()
            turn, due = turn + 1, next_deadline(due, time.monotonic())

    def _read(self, reader: NvmlReader, seldom: bool) -> bool:
        """Take one sample; return whether the GPU still answers."""
        try:
            sample = reader.sample(self._server, self._now())
            if not self._given_up:
                self._keep(sample)
            if seldom:
                self._note(reader.processes())
        except GpuLost as error:
            self._lost.append(f"{short(reader.device.uuid)} was lost {self._now():.1f} s into the run: {error}")
            return False
        return True

    def _note(self, processes: Sequence[GpuProcess]) -> None:
        for process in processes:
            key = process.gpu, process.pid
            before = self._processes.get(key, process)
            most = max(before, process, key=lambda seen: seen.memory or 0)
            self._processes[key] = replace(most, worked=_either(before.worked, process.worked))


def next_deadline(due: float, now: float, period: float = PERIOD) -> float:
    """Return the first deadline after `now` on the grid of `due` and `period`, in seconds."""
    return due + period * max(1, math.floor((now - due) / period) + 1)


def _either(before: bool | None, now: bool | None) -> bool | None:
    """Combine two readings: True once either is True; an unknown reading does not change a known one."""
    return now if before is None else before or bool(now)


def _reader(binding: ModuleType, device: NvmlDevice, now: float) -> NvmlReader:
    try:
        return NvmlReader(binding, device, now)
    except GpuLost as error:
        raise UsageError(
            f"{short(device.uuid)} ({device.name}) no longer answers: {error}; nvidia-smi may say more, "
            "and a reset of the GPU or a reboot brings it back"
        ) from None


_AT_ONCE = 100
_XIDS = {
    13: "a kernel's error on the GPU",
    31: "a kernel accessed memory that is not its own",
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
    """Faults of cards; `cards` are their handles by UUID."""

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
        """Record new faults; a lost GPU is reported elsewhere."""
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
        # An error, a timeout, ends the events; a faulty GPU may have more of them than we want to handle at once.
        with contextlib.suppress(self._binding.NVMLError):
            for _ in range(_AT_ONCE):
                yield self._binding.nvmlEventSetWait_v2(self._events, 0)

    def _uuid_of(self, device: Any) -> str:
        # A GPU that has fallen off the bus no longer reports its UUID, but its handle is still the one we have.
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
    """Return an event set for the XIDs of these cards; None if the system does not support events."""
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
