"""Declarations of metrics: their names, units and statistics, how runs are compared by them, and where they appear."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from pytest_comfyload.errors import UsageError

__all__ = ["MetricSpec", "Panel", "Scale"]


@dataclass(frozen=True, slots=True)
class Scale:
    """How runs are compared by a metric.

    With `floor` None, by ratio, for values that are never zero; `effect` is the smallest change that matters, in
    percent. Otherwise by difference; `floor` is the smallest that matters, in the metric's unit. `higher_is_better`
    reverses the direction.
    """

    floor: float | None = None
    higher_is_better: bool = False
    effect: float = 5.0

    @property
    def relative(self) -> bool:
        return self.floor is None

    @property
    def grain(self) -> float:
        """The unit of noise on the `place` axis: 1 %, or a fifth of the smallest difference that matters."""
        return 0.01 if self.floor is None else self.floor / 5

    @property
    def least_effect(self) -> float:
        return math.log1p(self.effect / 100) if self.floor is None else self.floor

    def at_least(self, effect: float) -> Scale:
        """Return a copy with another least effect, in percent or the metric's unit. Raises: UsageError."""
        if isinstance(effect, bool) or not isinstance(effect, int | float) or not 0 < effect < math.inf:
            raise UsageError(f"min_effect={effect!r}: give a change above 0, in percent or the metric's unit")
        return replace(self, effect=effect) if self.floor is None else replace(self, floor=effect)

    def has_place(self, value: float) -> bool:
        return math.isfinite(value) and (value > 0 or not self.relative)

    def place(self, value: float) -> float:
        """Return a run's value on the axis on which runs are compared; greater is worse."""
        placed = math.log(value) if self.relative else value
        return -placed if self.higher_is_better else placed

    def change(self, distance: float) -> float:
        """Return a distance on that axis as a change, in percent or the metric's unit, with the metric's own sign."""
        distance = -distance if self.higher_is_better else distance
        return 100 * math.expm1(distance) if self.relative else distance


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A chart of the trend: `stats` are its lines, `order` its position.

    With `band`, the area between the first two lines is shaded. `zone` is a range to mark, in the metric's unit.
    """

    id: str
    order: int
    stats: tuple[str, ...]
    caption: str
    title: str = ""
    band: bool = False
    zone: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """One metric of a load.

    Args:
        name: Its attribute of LoadResult, dotted below `gpu` and `server`.
        title: Its name in tables and charts.
        unit: Its unit; percent is 0-100.
        help: What is measured, from when to when, in one sentence.
        stats: The attributes that are its figures ("p50", "mean"); empty if it is itself a number.
        key: Its dotted name in `LoadResult.to_dict`; default: `name`.
        scale: How runs are compared by it; None if they are not.
        gates: The statistics that can be gates; default: all of `stats`.
        by_class: Whether it is a mapping from node classes.
        needs: What it is computed from, and has no samples without.
        explains: Statistics that a comparison shows below its verdict; "" for the number itself.
        panel: Its chart in the trend.
        terminal: Its name in the row of times of a summary; empty if it is not in it.
        slo: Whether `find_capacity(slo=...)` can be about it.
        mirrored: Whether it is passed on to pytest-benchmark.
    """

    name: str
    title: str
    unit: str
    help: str
    stats: tuple[str, ...] = ()
    key: str = ""
    scale: Scale | None = None
    gates: tuple[str, ...] | None = None
    by_class: bool = False
    needs: Literal["outcomes", "timeline", "nodes", "server", "gpu"] = "outcomes"
    explains: tuple[str, ...] = ()
    panel: Panel | None = None
    terminal: str = ""
    slo: bool = False
    mirrored: bool = False

    def figures(self) -> Iterator[tuple[str, str]]:
        """Yield the name and the key of each of its figures, such as `total_time.p95` twice; none for node classes."""
        if self.by_class:
            return
        for stat in self.stats or ("",):
            end = f".{stat}" if stat else ""
            yield self.name + end, (self.key or self.name) + end

    def is_gate(self, stat: str) -> bool:
        """Return whether runs can be compared by this statistic ("" for the number itself)."""
        return self.scale is not None and stat in (self.gates if self.gates is not None else self.stats or ("",))
