"""GPU metrics in the Prometheus text format, under the names of our exporter and of NVIDIA's DCGM exporter.

Values are converted to a sample's units: percent, bytes, °C, W, J, MHz.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_comfyload.result.run_facts import GpuFacts
from pytest_comfyload.result.telemetry import reasons_of

__all__ = [
    "DCGM_THROTTLE",
    "OWN",
    "OWN_INFO",
    "OWN_POWER_LIMIT",
    "OWN_THROTTLED",
    "Card",
    "Name",
    "Series",
    "cards_of",
    "parse_metrics",
]


@dataclass(frozen=True, slots=True)
class Name:
    """A metric, the field of a sample that it fills, and the factor for its value."""

    metric: str
    field: str
    factor: float = 1.0


# Labels: `uuid`, and `name`, which is the model's.
OWN = (
    Name("comfyload_gpu_utilization_percent", "utilization"),
    Name("comfyload_gpu_memory_used_bytes", "memory_used"),
    Name("comfyload_gpu_memory_total_bytes", "memory_total"),
    Name("comfyload_gpu_temperature_celsius", "temperature"),
    Name("comfyload_gpu_power_watts", "power"),
    Name("comfyload_gpu_energy_joules_total", "energy"),
    Name("comfyload_gpu_sm_clock_hertz", "clock", 1e-6),
)
# 1 while the clocks are throttled for the label `reason`, else 0.
OWN_THROTTLED = "comfyload_gpu_throttled"
# Always 1, with the full driver version in its label `driver`.
OWN_INFO = "comfyload_gpu_info"
OWN_POWER_LIMIT = "comfyload_gpu_power_limit_watts"

_MIB = 1024.0**2
# Labels `gpu`, `UUID`, `modelName`. If two metrics fill the same field, the later one is used: GR_ENGINE_ACTIVE is a
# mean over the time since the last poll, GPU_UTIL only over the last sixth of a second to one second.
DCGM = (
    Name("DCGM_FI_DEV_GPU_UTIL", "utilization"),
    Name("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "utilization", 100.0),
    Name("DCGM_FI_DEV_FB_USED", "memory_used", _MIB),
    Name("DCGM_FI_DEV_FB_TOTAL", "memory_total", _MIB),
    Name("DCGM_FI_DEV_GPU_TEMP", "temperature"),
    Name("DCGM_FI_DEV_POWER_USAGE", "power"),
    Name("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "energy", 1e-3),
    Name("DCGM_FI_DEV_SM_CLOCK", "clock"),
)
DCGM_THROTTLE = ("DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", "DCGM_FI_DEV_CLOCKS_EVENT_REASONS")
# The total is the sum of these if the exporter does not report it.
_DCGM_MEMORY = ("DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_FREE", "DCGM_FI_DEV_FB_RESERVED")
_DCGM_XID = "DCGM_FI_DEV_XID_ERRORS"
_POWER_LIMIT = ("DCGM_FI_DEV_ENFORCED_POWER_LIMIT", "DCGM_FI_DEV_POWER_MGMT_LIMIT", OWN_POWER_LIMIT)
# Facts of a card, by metric or label: DCGM's exporter gives versions, which are not numbers, as labels of every series.
_FIXED: Mapping[str, Sequence[str]] = {"driver": ("DCGM_FI_DRIVER_VERSION", "driver"), "power_limit": _POWER_LIMIT}
# DCGM's numbers of this size or larger mean that there is no value.
_DCGM_BLANK = 140737488355328.0

_BY_METRIC = {name.metric: (order, name) for order, name in enumerate((*DCGM, *OWN))}


@dataclass(slots=True)
class Card:
    """One GPU in one poll.

    `values` are fields of a sample, `fixed` are fields of its facts; `xid` is the last error that the driver reported,
    0 for none.
    """

    gpu: str
    index: str = ""
    title: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    xid: int = 0
    fixed: dict[str, Any] = field(default_factory=dict)

    def facts(self, server: str) -> GpuFacts:
        """Return its facts, as a GPU of that server."""
        return GpuFacts(server, self.gpu, self.title, self.values.get("memory_total"), **self.fixed)

    def is_one_of(self, names: Iterable[str]) -> bool:
        """Return whether one of the names is its UUID or number."""
        return not {self.gpu, self.index}.isdisjoint(names)


def cards_of(series: Iterable[Series]) -> list[Card]:
    """Return the GPUs in the series, sorted by id, with all that is known about each."""
    by_card: dict[str, list[Series]] = {}
    for each in series:
        if math.isfinite(each.value) and (gpu := _id(each)):
            by_card.setdefault(gpu, []).append(each)
    return [_card(gpu, by_card[gpu]) for gpu in sorted(by_card)]


def _id(series: Series) -> str | None:
    """Return a GPU's UUID, plus the number of a MIG slice; None if the series is not about a GPU."""
    if series.name in _BY_METRIC or series.name in _OTHERS:
        labels = series.labels
        gpu = next((labels[label] for label in ("uuid", "UUID", "device", "gpu") if labels.get(label)), None)
        return f"{gpu}/{labels['GPU_I_ID']}" if gpu and labels.get("GPU_I_ID") else gpu
    return None


_OTHERS = frozenset((*DCGM_THROTTLE, *_DCGM_MEMORY, *_POWER_LIMIT, _DCGM_XID, OWN_THROTTLED, OWN_INFO))


def _card(gpu: str, series: Iterable[Series]) -> Card:
    raw = {each.name: each.value for each in series if not _blank(each)}
    labels: dict[str, str] = {name: text for each in series for name, text in each.labels.items()}
    values: dict[str, Any] = dict(_plain(raw))
    if "memory_total" not in values and "DCGM_FI_DEV_FB_FREE" in raw and "memory_used" in values:
        values["memory_total"] = sum(raw.get(name, 0.0) for name in _DCGM_MEMORY) * _MIB
    throttle = _throttle(raw, series)
    if throttle is not None:
        values["throttle"] = throttle
    title = labels.get("modelName") or labels.get("name") or ""
    return Card(gpu, labels.get("gpu", ""), title, values, int(raw.get(_DCGM_XID, 0)), _fixed({**labels, **raw}))


def _fixed(told: Mapping[str, Any]) -> dict[str, Any]:
    """Read the constant facts from the labels and values of a card's series."""
    found = {name: [told[each] for each in names if told.get(each)] for name, names in _FIXED.items()}
    return {name: values[0] for name, values in found.items() if values}


def _plain(raw: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    for metric in sorted(raw.keys() & _BY_METRIC.keys(), key=lambda metric: _BY_METRIC[metric][0]):
        name = _BY_METRIC[metric][1]
        yield name.field, raw[metric] * name.factor


def _throttle(raw: Mapping[str, float], series: Iterable[Series]) -> tuple[str, ...] | None:
    for name in DCGM_THROTTLE:
        if name in raw:
            return reasons_of(int(raw[name]))
    own = [each for each in series if each.name == OWN_THROTTLED]
    return tuple(sorted(each.labels.get("reason", "unknown") for each in own if each.value > 0)) if own else None


def _blank(series: Series) -> bool:
    return series.name.startswith("DCGM_") and series.value >= _DCGM_BLANK


@dataclass(frozen=True, slots=True)
class Series:
    """One value under a name and labels; NaN and infinities are values. Timestamps are dropped."""

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


# Characters; a longer line is not a GPU's, and would cost the regular expressions much memory.
_LONGEST_LINE = 16 * 1024
_LABEL = re.compile(r'\s*([A-Za-z_]\w*)\s*=\s*"((?:[^"\\\n]|\\.)*)"\s*(?:,|(?=\}))', re.ASCII)
_NAME = re.compile(r"[ \t]*([A-Za-z_:][\w:]*)[ \t]*", re.ASCII)
# OpenMetrics has timestamps with fractions, and an exemplar may follow.
_VALUE = re.compile(r"[ \t]*([^\s_#]+)(?:[ \t]+-?\d+(?:\.\d+)?)?[ \t]*(?:#.*)?$", re.ASCII)
_ESCAPED = re.compile(r"\\(.)")


def parse_metrics(text: str) -> Iterator[Series]:
    # Not splitlines(): a label may contain characters that Unicode considers line ends.
    for line in text.split("\n"):
        series = _series(line.removesuffix("\r")) if len(line) <= _LONGEST_LINE else None
        if series is not None:
            yield series


def _series(line: str) -> Series | None:
    name = _NAME.match(line)
    if name is None:
        return None
    labels, at = _labels(line, name.end())
    value = _VALUE.match(line, at)
    if value is None:
        return None
    try:
        return Series(name[1], float(value[1]), labels)
    except ValueError:
        return None


def _labels(line: str, at: int) -> tuple[dict[str, str], int]:
    """Return the labels and the position after them; an unclosed brace is not skipped, so it fails as a value."""
    labels: dict[str, str] = {}
    if not line.startswith("{", at):
        return labels, at
    end = at + 1
    while label := _LABEL.match(line, end):
        labels[label[1]] = _unescaped(label[2])
        end = label.end()
    closing = re.compile(r"\s*\}").match(line, end)
    return (labels, closing.end()) if closing else (labels, at)


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda escape: {"n": "\n"}.get(escape[1], escape[1]), text)
