"""The NVIDIA GPUs of this machine, as they are at one moment: cards, their MIG slices, and who uses them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType

from pytest_comfyload.errors import UsageError
from pytest_comfyload.gpu.nvml_library import GpuLost, Question, opened, raise_if_lost

__all__ = ["GpuProcess", "NoGpus", "NvmlDevice", "asking_processes", "nvml_devices", "short", "to_watch"]


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
    """Why no GPUs can be named, as a sentence; `candidates` are those between which somebody else must choose."""

    reason: str
    candidates: tuple[NvmlDevice, ...] = ()


def nvml_devices() -> tuple[NvmlDevice, ...] | NoGpus:
    """Every card in NVML's order, each followed by its MIG slices; cards that do not answer are left out."""
    try:
        with opened() as binding:
            devices = tuple(_devices(binding))
    except UsageError as refusal:
        return NoGpus(str(refusal))
    return devices or NoGpus("NVML opens, but shows no GPU that answers; nvidia-smi -L lists what the driver sees")


def to_watch(devices: Sequence[NvmlDevice]) -> tuple[NvmlDevice, ...]:
    """All that can be computed on: cards, and in the place of a card that is cut up, its slices."""
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
