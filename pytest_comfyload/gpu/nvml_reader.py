"""Readings of a GPU: every value that the driver provides, and utilization since the last reading.

For a MIG slice, NVML reports memory and processes. Clock, temperature and throttling are those of its card, which the
slice shares. Utilization, power and energy of the card include the neighbouring slices, so they are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType
from typing import Any

from pytest_comfyload.gpu.nvml_devices import GpuLost, NvmlDevice, Question, asking_processes, raise_if_lost
from pytest_comfyload.result.telemetry import GpuSample, reasons_of

__all__ = ["NewSamples", "NvmlReader", "UtilizationMeter", "mean_of_new"]


class NvmlReader:
    """Reader of one GPU; `time` is when it was created, on the clock of the readings.

    `memory_used` is what nvidia-smi shows, without the memory that the driver reserves for itself; drivers before 510
    cannot distinguish the two and count both.
    """

    def __init__(self, binding: ModuleType, device: NvmlDevice, time: float) -> None:
        """Open the GPU. Raises: GpuLost."""
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
        """Take a sample. Raises: GpuLost, also if the GPU answers nothing but `Unknown Error`."""
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


# Maximum microseconds that one sample covers: during a longer gap the driver did not sample.
_LONGEST = 1_000_000
# Fields of the union with a sample's value, by NVML's value type.
_FIELDS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


class UtilizationMeter:
    """Meter of a GPU's utilization; `time` is when it was created, in seconds on the clock of the readings."""

    def __init__(self, binding: ModuleType, handle: object, time: float) -> None:
        """Find the latest sample so far. Raises: GpuLost."""
        self._binding = binding
        self._handle = handle
        self._rates = Question(binding, handle, ("nvmlDeviceGetUtilizationRates",))
        self._read_at = time
        self._seen = 0
        self._seen = max((stamp for stamp, _ in self._samples()), default=0)

    def read(self, time: float) -> tuple[float | None, float]:
        """Return the mean in percent, None if there is none, and the seconds that it covers. Raises: GpuLost."""
        since, self._read_at = self._read_at, time
        seen, new = self._seen, mean_of_new(self._samples(), self._seen)
        if new is not None:
            self._seen = new.latest
        if not seen:
            # The start of the first sample is unknown: it only marks the time after which samples can be counted.
            rates = self._rates()
            return (None if rates is None else float(rates.gpu)), time - since
        return (None, 0.0) if new is None else (new.mean, new.span)

    def _samples(self) -> list[tuple[int, float]]:
        binding = self._binding
        try:
            kind, samples = binding.nvmlDeviceGetSamples(self._handle, binding.NVML_GPU_UTILIZATION_SAMPLES, self._seen)
        except binding.NVMLError as error:
            # Not supported, no new sample, or one more arrived during the call. The next reading has the samples.
            raise_if_lost(error)
            return []
        return [(sample.timeStamp, _value(sample, kind)) for sample in samples]


@dataclass(frozen=True, slots=True)
class NewSamples:
    """New samples: `mean` in percent, `span` in seconds, `latest` as the last timestamp in microseconds."""

    mean: float
    span: float
    latest: int


def mean_of_new(samples: Iterable[tuple[int, float]], seen: int) -> NewSamples | None:
    """Average the samples (microseconds, percent) later than `seen`; None if there are none."""
    # The driver may repeat samples, and fills unused entries with zeros.
    new = {stamp: value for stamp, value in samples if stamp > seen}
    if not new:
        return None
    span = sum(min(after - before, _LONGEST) for before, after in pairwise([seen, *sorted(new)]))
    return NewSamples(sum(new.values()) / len(new), span / 1e6, max(new))


def _value(sample: Any, kind: int) -> float:
    return float(getattr(sample.sampleValue, _FIELDS[kind]))
