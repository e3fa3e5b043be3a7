"""Runs of the same code side by side: with this parameter, on that GPU, on this server. Ratios, never a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_comfyload.history.index import Row
from pytest_comfyload.history.record import Record
from pytest_comfyload.metrics.registry import GATE, compared
from pytest_comfyload.result.ab_figure import value_at

__all__ = ["DIMENSIONS", "Side", "across"]

DIMENSIONS = ("params", "gpu", "server")


@dataclass(frozen=True, slots=True)
class Side:
    """`what` was measured: a parameter, GPU or server. `ratio`: to the first of its test."""

    test: str
    what: str
    value: float
    unit: str
    prompts: int
    ratio: float


def across(
    rows: Sequence[Row], dimension: str, record_of: Callable[[Row], Record], metric: str | None = None
) -> list[Side]:
    """The rows, of one run for each test, parameters and environment; tests with but one value are left out.

    Raises: UsageError for a figure that cannot be compared, StoreError.
    """
    figure = compared(metric or GATE)
    sides: dict[str, dict[str, tuple[float, int]]] = {}
    for row in rows:
        for test, what, figures in _parts(row, dimension, record_of):
            value = value_at(figures, figure.name)
            if math.isfinite(value):
                sides.setdefault(test, {})[what] = (value, int(figures.get("prompts") or row.prompts))
    return [side for test, values in sides.items() if len(values) > 1 for side in _sides(test, values, figure.unit)]


def _parts(row: Row, dimension: str, record_of: Callable[[Row], Record]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The test, the value of the dimension, and the figures of what was measured there."""
    name = f"{row.test} [{row.parameters}]" if row.parameters else row.test
    if dimension == "params":
        yield row.test, row.parameters or "no parameters", record_of(row).figures
    elif dimension == "gpu":
        record = record_of(row)
        yield name, str(record.environment.get("gpu", "unknown")), record.figures
    else:
        for server, figures in record_of(row).figures.get("by_server", {}).items():
            yield name, server, figures


def _sides(test: str, values: dict[str, tuple[float, int]], unit: str) -> Iterable[Side]:
    first = next(iter(values.values()))[0]
    for what, (value, prompts) in values.items():
        yield Side(test, what, value, unit, prompts, value / first if first else float("nan"))
