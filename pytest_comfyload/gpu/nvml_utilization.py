"""How busy a GPU was since it was last asked: every sample that the driver took counts once.

The driver samples by itself, several times a second, and keeps some hundred samples with their times. Where it does
not hand them out, its own mean over the last 1/6 to 1 s stands in for the time since the last reading.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType
from typing import Any

from pytest_comfyload.gpu.nvml_library import Question, raise_if_lost

__all__ = ["NewSamples", "UtilizationMeter", "mean_of_new"]

# Microseconds that one sample speaks of, at most: in a longer gap the driver did not look.
_LONGEST = 1_000_000
# Fields of the union that holds a sample's value, by NVML's value type.
_FIELDS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


class UtilizationMeter:
    """Reads one GPU; `time` is when it was made, in the seconds of the readings."""

    def __init__(self, binding: ModuleType, handle: object, time: float) -> None:
        """Raises: GpuLost."""
        self._binding = binding
        self._handle = handle
        self._rates = Question(binding, handle, ("nvmlDeviceGetUtilizationRates",))
        self._read_at = time
        self._seen = 0
        self._seen = max((stamp for stamp, _ in self._samples()), default=0)

    def read(self, time: float) -> tuple[float | None, float]:
        """Mean percent and the seconds that it is the mean of; None where there is none. Raises: GpuLost."""
        since, self._read_at = self._read_at, time
        seen, new = self._seen, mean_of_new(self._samples(), self._seen)
        if new is not None:
            self._seen = new.latest
        if not seen:
            # When the first sample began nobody knows: it only says from when on the samples can be counted.
            rates = self._rates()
            return (None if rates is None else float(rates.gpu)), time - since
        return (None, 0.0) if new is None else (new.mean, new.span)

    def _samples(self) -> list[tuple[int, float]]:
        binding = self._binding
        try:
            kind, samples = binding.nvmlDeviceGetSamples(self._handle, binding.NVML_GPU_UTILIZATION_SAMPLES, self._seen)
        except binding.NVMLError as error:
            # Not supported; or none since then; or one more came while it answered. The next reading has them.
            raise_if_lost(error)
            return []
        return [(sample.timeStamp, _value(sample, kind)) for sample in samples]


@dataclass(frozen=True, slots=True)
class NewSamples:
    """mean: percent. span: seconds. latest: microseconds, the time of the latest sample."""

    mean: float
    span: float
    latest: int


def mean_of_new(samples: Iterable[tuple[int, float]], seen: int) -> NewSamples | None:
    """What the samples (microseconds, percent) later than `seen` say; None where there are none."""
    # The driver may repeat samples, and fills places that it has not used yet with zeros.
    new = {stamp: value for stamp, value in samples if stamp > seen}
    if not new:
        return None
    span = sum(min(after - before, _LONGEST) for before, after in pairwise([seen, *sorted(new)]))
    return NewSamples(sum(new.values()) / len(new), span / 1e6, max(new))


def _value(sample: Any, kind: int) -> float:
    return float(getattr(sample.sampleValue, _FIELDS[kind]))
