"""The figures that are compared, each with its unit and with what a difference between two runs means."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_comfyload.errors import UsageError
from pytest_comfyload.result.regression import Scale
from pytest_comfyload.scenario.nearest import nearest

__all__ = ["EXPLAINING", "GATE", "Compared", "compared", "is_compared"]

# A median moves less from run to run than any other figure: the others explain what it says.
GATE = "generation_time.p50"

_RATIO, _RATE = Scale(), Scale(higher_is_better=True)
# Below a tenth of a second nobody waits.
_WAIT = Scale(floor=0.1)

_SCALES: tuple[tuple[str, str, Scale], ...] = (
    (r"(generation|total|sampling)_time\.(p\d+|mean)", "s", _RATIO),
    (r"(queue|submit|delivery|fetch|model_load|decode|save)_time\.(p\d+|mean)", "s", _WAIT),
    (r"(prompt_)?throughput", "/min", _RATE),
    (r"success_rate", "%", Scale(floor=1.0, higher_is_better=True)),
    (r"gpu\.vram\.(peak|mean)", "%", Scale(floor=1.0)),
    (r"gpu\.utilization\.(mean|busy_mean)", "%", Scale(floor=2.0)),
    (r"gpu\.memory_used\.peak", "B", _RATIO),
    (r"gpu\.power\.mean", "W", _RATIO),
    (r"gpu\.energy\.per_image", "J/image", _RATIO),
    (r"gpu\.throttled\.percent", "%", Scale(floor=1.0)),
    (r"gpu\.temperature\.max", "°C", Scale(floor=2.0)),
    (r"node_time\..+\.p50", "s", _WAIT),
)

EXPLAINING = (
    "generation_time.p95", "total_time.p50", "total_time.p95", "queue_time.p50", "model_load_time.mean",
    "throughput", "success_rate", "gpu.vram.peak", "gpu.utilization.mean", "gpu.energy.per_image",
    "gpu.throttled.percent",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Compared:
    """A figure by its dotted name, such as `generation_time.p50`."""

    name: str
    unit: str
    scale: Scale


def is_compared(name: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern, _, _ in _SCALES)


def compared(name: str) -> Compared:
    """Raises: UsageError, with the names that come nearest."""
    for pattern, unit, scale in _SCALES:
        if re.fullmatch(pattern, name):
            return Compared(name, unit, scale)
    legal = nearest(name, (GATE, *EXPLAINING))
    raise UsageError(f"no metric {name!r} can be compared from run to run; legal: {legal}")
