"""One GPU becomes one GpuSample: in NVIDIA's units no more, and with nothing where the GPU does not tell.

Of a MIG slice NVML tells the memory and the processes. Clock, temperature and throttling are those of the card that it
is cut from, which the slice shares; utilization, power and energy of the card are its neighbours' too, and so absent.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from pytest_comfyload.gpu.nvml_devices import NvmlDevice, asking_processes
from pytest_comfyload.gpu.nvml_library import GpuLost, Question
from pytest_comfyload.gpu.nvml_utilization import UtilizationMeter
from pytest_comfyload.result.telemetry import GpuSample, reasons_of

__all__ = ["NvmlReader"]


class NvmlReader:
    """Reads one GPU; `time` is when it was made, on the clock of the readings.

    memory_used is what nvidia-smi shows, without what the driver reserves for itself; a driver from before 510 cannot
    tell these apart and counts both.
    """

    def __init__(self, binding: ModuleType, device: NvmlDevice, time: float) -> None:
        """Raises: GpuLost."""
        self.device = device
        part = _handle(binding, device.uuid)
        self.card = part if device.card is None else _handle(binding, device.card)
        self._memory = Question(
            binding, part, ("nvmlDeviceGetMemoryInfo", binding.nvmlMemory_v2), ("nvmlDeviceGetMemoryInfo",)
        )
        sensor = binding.NVML_TEMPERATURE_GPU
        self._temperature = Question(
            binding, self.card, ("nvmlDeviceGetTemperatureV", sensor), ("nvmlDeviceGetTemperature", sensor)
        )
        self._power = Question(binding, part, ("nvmlDeviceGetPowerUsage",))
        self._energy = Question(binding, part, ("nvmlDeviceGetTotalEnergyConsumption",))
        self._clock = Question(binding, self.card, ("nvmlDeviceGetClockInfo", binding.NVML_CLOCK_SM))
        self._throttle = Question(
            binding,
            self.card,
            ("nvmlDeviceGetCurrentClocksEventReasons",),
            ("nvmlDeviceGetCurrentClocksThrottleReasons",),
        )
        self._utilization = UtilizationMeter(binding, part, time)
        self.processes = asking_processes(binding, part, device.uuid)

    def sample(self, server: str, time: float) -> GpuSample:
        """Raises: GpuLost, also where all that the GPU has to say is `Unknown Error`."""
        utilization, span = self._utilization.read(time)
        memory, mask = self._memory(), self._throttle()
        told: dict[str, Any] = {
            "utilization": utilization,
            "memory_used": None if memory is None else float(memory.used),
            "memory_total": None if memory is None else float(memory.total),
            "temperature": _scaled(self._temperature(), 1),
            "power": _scaled(self._power(), 1000),
            "energy": _scaled(self._energy(), 1000),
            "clock": _scaled(self._clock(), 1),
        }
        if self._memory.unknown and mask is None and set(told.values()) == {None}:
            raise GpuLost("Unknown Error")
        throttle = None if mask is None else reasons_of(mask)
        return GpuSample(server, self.device.uuid, time, span, throttle=throttle, **told)


def _handle(binding: ModuleType, uuid: str) -> Any:
    try:
        return binding.nvmlDeviceGetHandleByUUID(uuid)
    except binding.NVMLError as error:
        raise GpuLost(str(error)) from None


def _scaled(value: int | None, unit: int) -> float | None:
    return None if value is None else value / unit
