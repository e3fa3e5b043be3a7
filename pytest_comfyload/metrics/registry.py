"""The figures that are compared, each with its unit and with what a difference between two runs means."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pytest_comfyload.errors import UsageError, nearest
from pytest_comfyload.metrics.regression import Scale

__all__ = [
    "EXPLAINING",
    "FIGURES",
    "GATE",
    "ClassFigure",
    "Compared",
    "compared",
    "is_compared",
    "refuse_absent_classes",
]

# A median moves less from run to run than any other figure: the others explain what it says.
GATE = "generation_time.p50"

_RATIO, _RATE = Scale(), Scale(higher_is_better=True)
# Of times that can be 0, differences below a tenth of a second do not count.
_WAIT = Scale(floor=0.1)
_STATISTICS = ("p50", "p90", "p95", "p99", "mean")


_CLASS_FIGURE = re.compile(
    r"""(?P<kind>node_time|steps_per_second)(?:\[(?P<quote>["']?)(?P<in_brackets>.+)(?P=quote)\]|\.(?P<plain>.+?))"""
    r"(?:\.(?P<statistic>\w+))?"
)


@dataclass(frozen=True, slots=True)
class ClassFigure:
    """A figure of the nodes of one class. `statistic`: `p50`, `mean`, …; empty: all of them."""

    kind: str
    class_type: str
    statistic: str = ""

    @classmethod
    def read(cls, name: str) -> ClassFigure | None:
        """Read `node_time[KSampler].p50`, also with quotes around the class, or as a run's figures have it.

        None: it is the name of something else.
        """
        match = _CLASS_FIGURE.fullmatch(name)
        if match is None:
            return None
        return cls(match["kind"], match["in_brackets"] or match["plain"], match["statistic"] or "")

    @property
    def title(self) -> str:
        """The one spelling that is printed."""
        return f"{self.kind}[{self.class_type}]{self._statistic}"

    @property
    def key(self) -> str:
        """The dotted name in the figures of a run."""
        return f"{self.kind}.{self.class_type}{self._statistic}"

    @property
    def _statistic(self) -> str:
        return f".{self.statistic}" if self.statistic else ""


@dataclass(frozen=True, slots=True)
class Compared:
    """A figure. `title`: the name that people read and write, `name`: that in the figures of a run."""

    name: str
    unit: str
    scale: Scale
    title: str


def _times(names: Iterable[str], scale: Scale) -> list[Compared]:
    each = (f"{name}.{statistic}" for name in names for statistic in _STATISTICS)
    return [Compared(name, "s", scale, name) for name in each]


FIGURES: dict[str, Compared] = {
    each.title: each
    for each in (
        *_times(("generation_time", "total_time", "sampling_time", "decode_time", "save_time"), _RATIO),
        *_times(("queue_time", "submit_time", "delivery_time", "fetch_time", "model_load_time"), _WAIT),
        Compared("throughput", "/min", _RATE, "throughput"),
        Compared("prompt_throughput", "prompts/min", _RATE, "prompt_throughput"),
        Compared("success_rate", "%", Scale(floor=1.0, higher_is_better=True), "success_rate"),
        Compared("gpu.vram.peak", "%", Scale(floor=1.0), "gpu.vram.peak"),
        Compared("gpu.vram.mean", "%", Scale(floor=1.0), "gpu.vram.mean"),
        Compared("gpu.utilization.mean", "%", Scale(floor=2.0), "gpu.utilization.mean"),
        Compared("gpu.utilization.busy_mean", "%", Scale(floor=2.0), "gpu.utilization.busy_mean"),
        Compared("gpu.memory_used.peak", "B", _RATIO, "gpu.memory_used.peak"),
        Compared("gpu.power.mean", "W", _RATIO, "gpu.power.mean"),
        Compared("gpu.energy.per_image", "J/image", _RATIO, "gpu.energy_per_image"),
        Compared("gpu.throttled.percent", "%", Scale(floor=1.0), "gpu.throttled"),
        Compared("gpu.temperature.max", "°C", Scale(floor=2.0), "gpu.temperature.max"),
    )
}
_BY_NAME = {each.name: each for each in FIGURES.values()}
# Of the nodes of a class, by what is measured of them.
_BY_CLASS = {"node_time": ("s", _RATIO), "steps_per_second": ("it/s", _RATE)}

EXPLAINING = (
    "generation_time.p95", "total_time.p50", "total_time.p95", "queue_time.p50", "model_load_time.mean",
    "throughput", "success_rate", "gpu.vram.peak", "gpu.utilization.mean", "gpu.energy.per_image",
    "gpu.throttled.percent",
)  # fmt: skip


def is_compared(name: str) -> bool:
    return _found(name) is not None


def compared(name: object) -> Compared:
    """Return a figure by its title or its name. Raises: UsageError, with the names that come nearest."""
    if not isinstance(name, str):
        raise UsageError(f"{name!r} is not the name of a figure, such as {GATE!r}")
    found = _found(name)
    if found is None:
        raise UsageError(f"no metric {name!r} can be compared from run to run; legal: {nearest(name, _legal(name))}")
    return found


def refuse_absent_classes(gates: Iterable[str], classes: Iterable[str]) -> None:
    """Refuse the figures of node classes that are in no workflow of a load. Raises: UsageError."""
    there = sorted(set(classes))
    for gate in gates:
        figure = ClassFigure.read(gate)
        if figure is not None and figure.class_type not in there:
            close = nearest(figure.class_type, there)
            raise UsageError(f"gate={gate!r}: no node of the workflow is of that class; there are: {close}")


def _found(name: str) -> Compared | None:
    figure = ClassFigure.read(name)
    if figure is None:
        return FIGURES.get(name) or _BY_NAME.get(name)
    if figure.kind not in _BY_CLASS or figure.statistic not in _STATISTICS:
        return None
    return Compared(figure.key, *_BY_CLASS[figure.kind], figure.title)


def _legal(name: str) -> list[str]:
    """Of the figures of a class, those of that class."""
    figure = ClassFigure.read(name)
    class_type = "KSampler" if figure is None else figure.class_type
    by_class = [ClassFigure(kind, class_type, each).title for kind in _BY_CLASS for each in _STATISTICS]
    return [*by_class, *FIGURES] if figure is not None else [GATE, *FIGURES, *by_class]
