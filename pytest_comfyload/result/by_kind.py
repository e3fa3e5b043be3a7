"""Figures that are asked for by a name: failures by their kind, times and rates by the class of the node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

from pytest_comfyload.errors import UsageError, nearest
from pytest_comfyload.metrics.distribution import Distribution
from pytest_comfyload.metrics.metric import Count
from pytest_comfyload.result.outcome import OutcomeStatus

__all__ = ["ByClass", "ErrorCounts"]


class ErrorCounts(dict[str, Count]):
    """By kind of failure, all of them, zeros too; another word is refused with the legal ones."""

    KEYS: ClassVar = tuple(str(kind) for kind in OutcomeStatus if kind is not OutcomeStatus.SUCCESS)

    def __init__(self, name: str, by_status: Mapping[OutcomeStatus, int], n: int) -> None:
        super().__init__(
            (kind, Count(by_status.get(OutcomeStatus(kind), 0), f"{name}[{kind}]", n)) for kind in self.KEYS
        )

    def __missing__(self, kind: str) -> Count:
        raise UsageError(f"no such kind of error: {kind!r}; legal: {nearest(str(kind), self, limit=len(self))}")


class ByClass(dict[str, Distribution]):
    """Of (class, time, value): a distribution for each node class that ran; another is refused with these."""

    def __init__(self, name: str, unit: str, measured: Iterable[tuple[str, float, float]]) -> None:
        points: dict[str, list[tuple[float, float]]] = {}
        for class_type, time, value in measured:
            points.setdefault(class_type, []).append((time, value))
        super().__init__(
            (class_type, Distribution.over_time(f"{name}[{class_type}]", timed, unit=unit))
            for class_type, timed in points.items()
        )
        self._name = name
        self._did = "ran" if unit == "s" else "reported progress"

    def __missing__(self, class_type: str) -> Distribution:
        seen = nearest(str(class_type), sorted(self)) or "none"
        raise UsageError(
            f"{self._name}[{class_type!r}]: no node of that class {self._did}; classes that {self._did}: {seen}"
        )
