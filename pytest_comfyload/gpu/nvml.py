"""Source of samples of this machine's GPUs, and their driver and setup, read through NVML."""

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
    """The GPUs of the server at `server`, each sampled ten times a second.

    `gpus`: UUIDs, prefixes of UUIDs, or NVML's numbers; None means all GPUs of this machine.
    """

    def __init__(self, server: str, gpus: Sequence[str] | None = None) -> None:
        """Look up the GPUs. Raises: UsageError if NVML does not open or has no such GPU."""
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
        """Lost GPUs and hardware faults since the last watch began."""
        return self._watch.losses if self._watch else ()

    @property
    def processes(self) -> tuple[GpuProcess, ...]:
        """The processes with a context on these GPUs since the last watch began, each with its peak memory."""
        return self._watch.processes if self._watch else ()

    @property
    def company(self) -> tuple[str, ...]:
        """A sentence for each GPU on which other processes computed; the one with the most memory counts as the server.

        Processes with a context that were not seen to compute are left out: torch has one on every card it queries.
        """
        active = [each for each in self.processes if each.worked is not False]
        by_gpu = {device.uuid: [each for each in active if each.gpu == device.uuid] for device in self.devices}
        return tuple(_company(gpu, processes) for gpu, processes in by_gpu.items() if len(processes) > 1)

    @contextlib.asynccontextmanager
    async def watching(self, keep: Keep, now: Now) -> AsyncIterator[None]:
        """Sample the GPUs until the context exits. Raises on entering: UsageError if a GPU no longer answers."""
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
    """Return the facts of each device, in the given order, as GPUs of `server`.

    A slice has the power limit and MIG mode of its card.
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
    # NVML returns two MIG modes: the current one, and the one after a reset.
    return {
        "power_limit": None if milliwatts is None else milliwatts / 1000,
        "mig": None if modes is None else bool(modes[0]),
    }


def _cuda(number: int | None) -> str | None:
    """Format a CUDA version: 12040 is `12.4`."""
    return None if number is None else f"{number // 1000}.{number % 1000 // 10}"


def _float(number: int | None) -> float | None:
    return None if number is None else float(number)
