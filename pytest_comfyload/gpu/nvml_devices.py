"""NVIDIA GPUs of this machine: cards, MIG slices and processes, read through NVML."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pytest_comfyload.errors import UsageError

__all__ = [
    "GpuLost",
    "GpuProcess",
    "NoGpus",
    "NvmlDevice",
    "Question",
    "asking_processes",
    "nvml_devices",
    "opened",
    "raise_if_lost",
    "short",
    "to_watch",
    "why",
]


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process with a context on the GPU with the UUID `gpu`.

    `memory`: bytes that it uses there; None if the driver hides them. `worked`: whether it was seen to compute; None if
    the driver does not report it.
    """

    gpu: str
    pid: int
    memory: int | None
    worked: bool | None = None


@dataclass(frozen=True, slots=True)
class NvmlDevice:
    """A card, or one MIG slice of a card, whose UUID is then `card`.

    `index`: NVML's number of the card, by PCI bus; a slice has its card's. `memory_total`: bytes, None if not reported.
    """

    index: int
    uuid: str
    name: str
    memory_total: int | None
    card: str | None = None
    processes: tuple[GpuProcess, ...] = ()


@dataclass(frozen=True, slots=True)
class NoGpus:
    """The reason why no GPUs can be determined, as a sentence; the user must choose among the `candidates`."""

    reason: str
    candidates: tuple[NvmlDevice, ...] = ()


def nvml_devices() -> tuple[NvmlDevice, ...] | NoGpus:
    """List every card in NVML's order, each followed by its MIG slices; cards that do not answer are left out."""
    try:
        with opened() as binding:
            devices = tuple(_devices(binding))
    except UsageError as refusal:
        return NoGpus(str(refusal))
    return devices or NoGpus("NVML opens, but no GPU answers; nvidia-smi -L lists what the driver sees")


def to_watch(devices: Sequence[NvmlDevice]) -> tuple[NvmlDevice, ...]:
    """Select the devices that can compute: cards, but instead of a card with MIG slices, the slices."""
    cut = {device.card for device in devices}
    return tuple(device for device in devices if device.uuid not in cut)


def short(uuid: str) -> str:
    """Shorten a UUID to a prefix that is unambiguous enough for people: `GPU-4f2d8c1a`."""
    return uuid if "/" in uuid else "-".join(uuid.split("-")[:2])


def asking_processes(binding: ModuleType, handle: object, uuid: str) -> Callable[[], tuple[GpuProcess, ...]]:
    """Return a function that lists a GPU's processes with a context, and whether they computed since its last call.

    The returned function raises: GpuLost.
    """
    ask = Question(
        binding, handle, ("nvmlDeviceGetComputeRunningProcesses_v3",), ("nvmlDeviceGetComputeRunningProcesses_v2",)
    )
    computing = _asking_who_computes(binding, handle)

    def processes() -> tuple[GpuProcess, ...]:
        found, busy = ask() or (), computing()
        return tuple(
            GpuProcess(uuid, process.pid, process.usedGpuMemory, None if busy is None else process.pid in busy)
            for process in found
        )

    return processes


def _asking_who_computes(binding: ModuleType, handle: object) -> Callable[[], frozenset[int] | None]:
    """Return a function for the ids of processes that computed since its last call; None if the driver cannot tell."""
    ask, seen = getattr(binding, "nvmlDeviceGetProcessUtilization", None), 0

    def pids() -> frozenset[int] | None:
        nonlocal seen
        try:
            samples = ask(handle, seen) if ask else None
        except binding.NVMLError as error:
            raise_if_lost(error)
            return frozenset() if isinstance(error, binding.NVMLError_NotFound) else None
        if samples is None:
            return None
        new = [sample for sample in samples if sample.timeStamp > seen]
        seen = max((sample.timeStamp for sample in new), default=seen)
        return frozenset(sample.pid for sample in new if sample.smUtil > 0)

    return pids


def _devices(binding: ModuleType) -> Iterator[NvmlDevice]:
    for index in range(binding.nvmlDeviceGetCount()):
        try:
            handle = binding.nvmlDeviceGetHandleByIndex(index)
            card = _device(binding, handle, index, None)
            slices = tuple(_slices(binding, handle, card))
        except (GpuLost, binding.NVMLError):
            continue
        yield card
        yield from slices


def _slices(binding: ModuleType, handle: object, card: NvmlDevice) -> Iterator[NvmlDevice]:
    count = Question(binding, handle, ("nvmlDeviceGetMaxMigDeviceCount",))() or 0
    for number in range(count):
        # A place without a slice answers with an error.
        part = Question(binding, handle, ("nvmlDeviceGetMigDeviceHandleByIndex", number))()
        if part is not None:
            yield _device(binding, part, card.index, card.uuid)


def _device(binding: ModuleType, handle: object, index: int, card: str | None) -> NvmlDevice:
    uuid = binding.nvmlDeviceGetUUID(handle)
    name = Question(binding, handle, ("nvmlDeviceGetName",))() or "unnamed GPU"
    memory = Question(binding, handle, ("nvmlDeviceGetMemoryInfo",))()
    total = None if memory is None else int(memory.total)
    return NvmlDevice(index, uuid, name, total, card, asking_processes(binding, handle, uuid)())


# Messages by the name of the binding's exception.
_REFUSALS = {
    "NVMLError_LibraryNotFound": (
        "libnvidia-ml.so.1 is not found, so this machine has no NVIDIA driver; "
        "install it, or start the container with its GPUs (docker run --gpus all)"
    ),
    "NVMLError_DriverNotLoaded": "the NVIDIA driver is installed but not loaded; nvidia-smi or a reboot brings it up",
    "NVMLError_LibRmVersionMismatch": (
        "the NVIDIA library is of another version than the driver that runs; reboot, or restart the container"
    ),
    "NVMLError_NoPermission": "this user has no permission to use the NVIDIA driver; let it read /dev/nvidia*",
    "NVMLError_FunctionNotFound": "the NVIDIA driver is too old; update it",
}
_LOST = {"NVMLError_GpuIsLost", "NVMLError_ResetRequired", "NVMLError_Uninitialized"}


class GpuLost(Exception):
    """A GPU no longer answers, and will not until it is reset; the message is NVML's reason."""


@contextlib.contextmanager
def opened() -> Iterator[ModuleType]:
    """Open NVML and yield its binding; NVML counts its users, so this may be nested. Raises: UsageError."""
    binding = _binding()
    try:
        binding.nvmlInit()
        try:
            yield binding
        finally:
            with contextlib.suppress(binding.NVMLError):
                binding.nvmlShutdown()
    except binding.NVMLError as error:
        raise UsageError(f"NVML is not available: {_refusal(error)}") from None


def why(error: Exception) -> str:
    """Return NVML's own description of an error: `GPU is lost`."""
    return str(error).rstrip(".")


def raise_if_lost(error: Exception) -> None:
    """Raise GpuLost for an error that concerns the GPU rather than the call."""
    if type(error).__name__ in _LOST:
        raise GpuLost(why(error)) from None


class Question:
    """One query to a GPU. Of several alternative calls, the first that answers is used from then on.

    Calls are the binding's functions by name, with their arguments after the handle: a driver, a card or a binding
    may lack any of them. `unknown` is true if the last answer was NVML's `Unknown Error`.
    """

    def __init__(self, binding: ModuleType, handle: object, *calls: tuple[Any, ...]) -> None:
        self._error: type[Exception] = binding.NVMLError
        self._calls: list[Callable[[], Any]] = [
            _call(function, handle, arguments)
            for name, *arguments in calls
            if (function := getattr(binding, name, None)) is not None
        ]
        self.unknown = False

    def __call__(self) -> Any:
        """Return the answer; None if the GPU gives none. Raises: GpuLost."""
        self.unknown = False
        for call in self._calls:
            try:
                answer = call()
            except self._error as error:
                raise_if_lost(error)
                self.unknown |= type(error).__name__ == "NVMLError_Unknown"
            else:
                self._calls = [call]
                return answer
        return None


def _call(function: Callable[..., Any], handle: object, arguments: list[Any]) -> Callable[[], Any]:
    return lambda: function(handle, *arguments)


def _binding() -> ModuleType:
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        raise UsageError("NVML is not available: its Python binding is missing; pip install nvidia-ml-py") from None


def _refusal(error: Exception) -> str:
    return _REFUSALS.get(type(error).__name__, f"{why(error)}; nvidia-smi may say more")
