"""What NVML tells once of this machine's GPUs: their driver, and how they are set up.

A driver that does not answer takes nothing away from a load: what it does not tell is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

from pytest_comfyload.errors import UsageError
from pytest_comfyload.gpu.nvml_devices import NvmlDevice
from pytest_comfyload.gpu.nvml_library import GpuLost, Question, opened
from pytest_comfyload.result.run_facts import GpuFacts

__all__ = ["nvml_facts"]


def nvml_facts(server: str, devices: Sequence[NvmlDevice]) -> tuple[GpuFacts, ...]:
    """Of each device, in that order, as one of `server`; power limit and MIG mode of a slice are its card's."""
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
