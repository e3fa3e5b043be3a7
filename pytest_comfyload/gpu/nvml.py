"""The GPUs of this machine as a source of samples, and their driver and setup, read through NVML."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

from pytest_comfyload.errors import UsageError
from pytest_comfyload.gpu.nvml_devices import (
    GpuLost,
    GpuProcess,
    NoGpus,
    NvmlDevice,
    Question,
    nvml_devices,
    opened,
    short,
)
from pytest_comfyload.gpu.nvml_select import chosen
from pytest_comfyload.gpu.nvml_thread import NvmlWatch
from pytest_comfyload.gpu.spec import Keep, Now
from pytest_comfyload.metrics.units import format_value
from pytest_comfyload.result.run_facts import GpuFacts

__all__ = ["NvmlSource", "nvml_facts"]


class NvmlSource:
    """The GPUs of the server at `server`, ten samples a second of each.

    gpus: UUIDs, prefixes of them, or NVML's numbers; None means all of this machine.
    """

    def __init__(self, server: str, gpus: Sequence[str] | None = None) -> None:
        """Raises: UsageError, where NVML does not open or has no such GPU."""
        devices = nvml_devices()
        if isinstance(devices, NoGpus):
            raise UsageError(devices.reason)
        self.server = server
        self.devices = chosen(devices, gpus)
        self.facts = nvml_facts(server, self.devices)
        self._watch: NvmlWatch | None = None

    def __str__(self) -> str:
        return f"nvml:{','.join(short(device.uuid) for device in self.devices)}"

    @property
    def losses(self) -> tuple[str, ...]:
        """GPUs that were lost, and faults of their hardware, since the last watch began."""
        return self._watch.losses if self._watch else ()

    @property
    def processes(self) -> tuple[GpuProcess, ...]:
        """The processes with a context on these GPUs since the last watch began, with the most memory of each."""
        return self._watch.processes if self._watch else ()

    @property
    def company(self) -> tuple[str, ...]:
        """A sentence for each GPU on which others computed too; who uses most of its memory is taken for the server.

        A process with a context that was not seen to compute is not named: torch has one on every card it is asked of.
        """
        active = [each for each in self.processes if each.worked is not False]
        by_gpu = {device.uuid: [each for each in active if each.gpu == device.uuid] for device in self.devices}
        return tuple(_company(gpu, processes) for gpu, processes in by_gpu.items() if len(processes) > 1)

    @contextlib.asynccontextmanager
    async def watching(self, keep: Keep, now: Now) -> AsyncIterator[None]:
        """Raises on entering: UsageError, where a GPU no longer answers."""
        self._watch = watch = NvmlWatch(self.server, self.devices, keep, now)
        try:
            await watch.start()
            yield
        finally:
            await watch.stop()


def _company(gpu: str, processes: Sequence[GpuProcess]) -> str:
    _, *others = sorted(processes, key=lambda each: each.memory or 0, reverse=True)
    named = ", ".join(f"{each.pid} with {_memory(each.memory)}" for each in others)
    return f"other processes used {short(gpu)} too: process {named}"


def _memory(held: int | None) -> str:
    return "memory that the driver hides" if held is None else format_value(held, "B")


def nvml_facts(server: str, devices: Sequence[NvmlDevice]) -> tuple[GpuFacts, ...]:
    """Return the facts of each device, in that order, as one of `server`.

    Power limit and MIG mode of a slice are its card's.
    """
    known = tuple(GpuFacts(server, device.uuid, device.name, _float(device.memory_total)) for device in devices)
    try:
        with opened() as binding:
            driver = _of_system(binding, "nvmlSystemGetDriverVersion")
            cuda = _cuda(_of_system(binding, "nvmlSystemGetCudaDriverVersion_v2"))
            return tuple(
                replace(facts, driver=driver, cuda=cuda, **_of_card(binding, device.card or device.uuid))
                for facts, device in zip(known, devices, strict=True)
            )
    except UsageError:
        return known


def _of_system(binding: ModuleType, name: str) -> Any:
    try:
        return getattr(binding, name)()
    except binding.NVMLError:
        return None


def _of_card(binding: ModuleType, uuid: str) -> dict[str, Any]:
    try:
        card = binding.nvmlDeviceGetHandleByUUID(uuid)
        limits = ("nvmlDeviceGetEnforcedPowerLimit",), ("nvmlDeviceGetPowerManagementLimit",)
        milliwatts = Question(binding, card, *limits)()
        modes = Question(binding, card, ("nvmlDeviceGetMigMode",))()
    except (GpuLost, binding.NVMLError):
        return {}
    # Of the mode, as it is and as it will be after a reset.
    return {
        "power_limit": None if milliwatts is None else milliwatts / 1000,
        "mig": None if modes is None else bool(modes[0]),
    }


def _cuda(number: int | None) -> str | None:
    """`12.4` of 12040."""
    return None if number is None else f"{number // 1000}.{number % 1000 // 10}"


def _float(number: int | None) -> float | None:
    return None if number is None else float(number)
