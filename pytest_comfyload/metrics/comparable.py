"""Figures by which runs are compared, by name: the statistics of metrics, and those of node classes."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pytest_comfyload.errors import UsageError, nearest
from pytest_comfyload.metrics.registry import GATE, METRICS
from pytest_comfyload.metrics.spec import Scale

__all__ = [
    "ClassFigure",
    "ComparedFigure",
    "comparable_figures",
    "compared",
    "explaining",
    "refuse_absent_classes",
    "stored_gate",
]

_CLASS_FIGURE = re.compile(
    r"""(?P<kind>node_time|steps_per_second)(?:\[(?P<quote>["']?)(?P<in_brackets>.+)(?P=quote)\]|\.(?P<plain>.+?))"""
    r"(?:\.(?P<statistic>\w+))?"
)


@dataclass(frozen=True, slots=True)
class ClassFigure:
    """A figure of the nodes of one class. `statistic` is `p50`, `mean`, …, or empty for all of them."""

    kind: str
    class_type: str
    statistic: str = ""

    @classmethod
    def read(cls, name: str) -> ClassFigure | None:
        """Read `node_time[KSampler].p50`, also with quotes around the class, or in the dotted form of a run's figures.

        None if it is the name of another figure.
        """
        match = _CLASS_FIGURE.fullmatch(name)
        if match is None:
            return None
        return cls(match["kind"], match["in_brackets"] or match["plain"], match["statistic"] or "")

    @property
    def title(self) -> str:
        """The canonical name, for display."""
        return f"{self.kind}[{self.class_type}]{self._statistic}"

    @property
    def key(self) -> str:
        """The dotted name in the figures of a run."""
        return f"{self.kind}.{self.class_type}{self._statistic}"

    @property
    def _statistic(self) -> str:
        return f".{self.statistic}" if self.statistic else ""


@dataclass(frozen=True, slots=True)
class ComparedFigure:
    """A figure: `title` is the name that people read and write, `name` the key in the figures of a run."""

    name: str
    unit: str
    scale: Scale
    title: str


@functools.cache
def comparable_figures() -> Mapping[str, ComparedFigure]:
    """Return every figure of a run by its title, without those of node classes."""
    return {
        title: ComparedFigure(key, spec.unit, spec.scale, title)
        for spec in METRICS.values()
        for stat, (title, key) in zip(spec.stats or ("",), spec.figures(), strict=False)
        if spec.scale is not None and spec.is_gate(stat)
    }


def explaining() -> list[str]:
    """Return the names of the figures that are shown below a verdict to explain it."""
    return [
        key
        for spec in METRICS.values()
        for stat, (_, key) in zip(spec.stats or ("",), spec.figures(), strict=False)
        if stat in spec.explains
    ]


def stored_gate(name: str) -> ComparedFigure:
    """Return the figure by which a stored run is compared; the default one if its own is unknown to this version."""
    return _found(name) or compared(GATE)


def compared(name: object) -> ComparedFigure:
    """Return a figure by its title or its name. Raises: UsageError, with the closest legal names."""
    if not isinstance(name, str):
        raise UsageError(f"{name!r} is not the name of a figure, such as {GATE!r}")
    found = _found(name)
    if found is None:
        raise UsageError(f"no metric {name!r} can be compared from run to run; legal: {nearest(name, _legal(name))}")
    return found


def refuse_absent_classes(gates: Iterable[str], classes: Iterable[str]) -> None:
    """Check that the node classes of all gates are in a workflow of the load. Raises: UsageError."""
    there = sorted(set(classes))
    for gate in gates:
        figure = ClassFigure.read(gate)
        if figure is not None and figure.class_type not in there:
            close = nearest(figure.class_type, there)
            raise UsageError(f"gate={gate!r}: no node of the workflow is of that class; there are: {close}")


def _found(name: str) -> ComparedFigure | None:
    figure = ClassFigure.read(name)
    if figure is None:
        figures = comparable_figures()
        return figures.get(name) or next((each for each in figures.values() if each.name == name), None)
    spec = METRICS[figure.kind]
    if spec.scale is None or not spec.is_gate(figure.statistic):
        return None
    return ComparedFigure(figure.key, spec.unit, spec.scale, figure.title)


def _legal(name: str) -> list[str]:
    """Return the legal figures; for a figure of a node class, those of that class first."""
    figure = ClassFigure.read(name)
    class_type = "KSampler" if figure is None else figure.class_type
    specs = [spec for spec in METRICS.values() if spec.by_class]
    by_class = [ClassFigure(spec.name, class_type, each).title for spec in specs for each in spec.stats]
    return [*by_class, *comparable_figures()] if figure is not None else [GATE, *comparable_figures(), *by_class]
