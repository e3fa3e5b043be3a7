"""The NVIDIA GPUs of this machine: cards, MIG slices and processes, through the opened library."""

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
    """A process with a context on a GPU: `gpu` its UUID, `memory` its bytes there, None where the driver hides them.

    `worked`: whether it was seen to compute; None where the driver does not tell.
    """

    gpu: str
    pid: int
    memory: int | None
    worked: bool | None = None


@dataclass(frozen=True, slots=True)
class NvmlDevice:
    """A card, or one MIG slice of it; `card` is then the UUID of the card that it is cut from.

    index: NVML's number of the card, by PCI bus; a slice has its card's. memory_total: bytes, None where not told.
    """

    index: int
    uuid: str
    name: str
    memory_total: int | None
    card: str | None = None
    processes: tuple[GpuProcess, ...] = ()


@dataclass(frozen=True, slots=True)
class NoGpus:
    """Why no GPUs can be named, as a sentence; `candidates` are those between which the user must choose."""

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
    """Select the devices that can be computed on: cards, and instead of a card in MIG mode its slices."""
    cut = {device.card for device in devices}
    return tuple(device for device in devices if device.uuid not in cut)


def short(uuid: str) -> str:
    """The first letters of a UUID, enough for people and as a prefix: `GPU-4f2d8c1a`."""
    return uuid if "/" in uuid else "-".join(uuid.split("-")[:2])


def asking_processes(binding: ModuleType, handle: object, uuid: str) -> Callable[[], tuple[GpuProcess, ...]]:
    """Asks, each time it is called, who has a context on a GPU, and has computed since it was last called.

    It raises: GpuLost.
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
    """The ids of the processes that computed since the last call; None where the driver does not tell."""
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
        # A place that holds no slice answers with an error.
        part = Question(binding, handle, ("nvmlDeviceGetMigDeviceHandleByIndex", number))()
        if part is not None:
            yield _device(binding, part, card.index, card.uuid)


def _device(binding: ModuleType, handle: object, index: int, card: str | None) -> NvmlDevice:
    uuid = binding.nvmlDeviceGetUUID(handle)
    name = Question(binding, handle, ("nvmlDeviceGetName",))() or "unnamed GPU"
    memory = Question(binding, handle, ("nvmlDeviceGetMemoryInfo",))()
    total = None if memory is None else int(memory.total)
    return NvmlDevice(index, uuid, name, total, card, asking_processes(binding, handle, uuid)())


# By the names of the binding's exceptions.
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
    """A GPU no longer answers, and will not before it is reset; the message is NVML's reason."""


@contextlib.contextmanager
def opened() -> Iterator[ModuleType]:
    """The binding, initialised; NVML counts who has it open, so many may at once. Raises: UsageError."""
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
    """NVML's own word for an error: `GPU is lost`."""
    return str(error).rstrip(".")


def raise_if_lost(error: Exception) -> None:
    """Raises: GpuLost, for an error that speaks of the GPU and not of the call."""
    if type(error).__name__ in _LOST:
        raise GpuLost(why(error)) from None


class Question:
    """One thing to ask a GPU. Of several calls for it the first that answers is kept for good.

    Calls are the binding's functions by name, with their arguments after the handle: a driver, a card or a binding
    may lack any of them. `unknown` is true where the last answer was NVML's `Unknown Error`.
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
        """None where the GPU does not tell. Raises: GpuLost."""
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
