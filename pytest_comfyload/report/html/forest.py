"""A forest plot: the ratio B ÷ A of each figure with its interval, and the limits beyond which a change counts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from operator import not_

from pytest_comfyload.compare.series_comparison import Change
from pytest_comfyload.metrics.paired import FEWEST_PAIRS, LIMIT
from pytest_comfyload.metrics.regression import signed
from pytest_comfyload.metrics.units import format_value
from pytest_comfyload.result.ab_figure import ABFigure

__all__ = ["WIDTH", "Effect", "Forest", "ForestRow", "forest", "of_change", "of_pairs"]

# Width of a row's drawing; the ratio 1 is in the middle.
WIDTH = 240.0
# Minimum and maximum reach of the axis on either side of 1, as natural logarithms.
_NEAR, _FAR = math.log(1.2), math.log(4)
# Ticks next to 1, from the widest axis to the narrowest.
_TICKS = ((0.25, 4.0), (0.5, 2.0), (0.67, 1.5), (0.8, 1.25), (0.9, 1.1))
_TONES = {"regressed": "worse", "suspected": "doubtful", "improved": "better"}


@dataclass(frozen=True, slots=True)
class Effect:
    """One figure of both sides; `ratio`, its interval and its limits are B ÷ A, nan if there is no ratio."""

    name: str
    a: str
    b: str
    change: str
    interval: str
    verdict: str
    ratio: float
    lower: float
    upper: float
    limits: tuple[float, float]
    decides: bool = False


@dataclass(frozen=True, slots=True)
class ForestRow:
    """A row of the plot; `x`, `left`, `right` and the limits `low` and `high` are positions from 0 to `WIDTH`."""

    effect: Effect
    tone: str
    x: float | None
    left: float
    right: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Forest:
    """The plot. `rows`: deciding and leading figures, and one figure of each other metric that moved; `rest`: all else.

    `ticks` are positions with their labels.
    """

    rows: tuple[ForestRow, ...]
    rest: tuple[ForestRow, ...]
    ticks: tuple[tuple[float, str], ...]

    @property
    def moved(self) -> int:
        """The number of figures in `rest` that moved beyond their limits."""
        return sum(row.tone != "noise" for row in self.rest)


def forest(effects: Iterable[Effect], leading: Collection[str]) -> Forest:
    """Draw the effects on one axis; those named in `leading` are never in the folded rest."""
    kept = sorted(effects, key=lambda each: (not each.decides, each.verdict not in _TONES))
    is_shown = list(_is_shown(kept, leading))
    reach = min(_FAR, max([_NEAR, *(1.15 * each for effect in compress(kept, is_shown) for each in _extent(effect))]))

    def place(ratio: float) -> float:
        log = math.log(ratio) if ratio > 0 else -math.inf
        return round(WIDTH / 2 * (1 + min(1.0, max(-1.0, log / reach))), 1)

    rows = [_row(effect, place) for effect in kept]
    ticks = tuple((place(each), f"×{each:g}") for each in _ticks(reach))
    return Forest(tuple(compress(rows, is_shown)), tuple(compress(rows, map(not_, is_shown))), ticks)


def _is_shown(effects: Iterable[Effect], leading: Collection[str]) -> Iterator[bool]:
    """Yield whether each effect is shown; one statistic is enough to show that a metric moved."""
    told = {name.rpartition(".")[0] for name in leading}
    for effect in effects:
        metric = effect.name.rpartition(".")[0]
        shown = effect.decides or effect.name in leading or (effect.verdict in _TONES and metric not in told)
        if shown:
            told.add(metric)
        yield shown


def _ticks(reach: float) -> Sequence[float]:
    """Return the ratios of the ticks: few enough to keep their labels apart."""
    return (1.0, *next(each for each in _TICKS if math.log(each[1]) <= reach))


def _extent(effect: Effect) -> Iterable[float]:
    """Return how far the axis must reach for an effect; the interval of mere noise may extend beyond it."""
    values = (effect.ratio, effect.lower, effect.upper) if effect.verdict in _TONES else (effect.ratio,)
    return (abs(math.log(each)) for each in values if math.isfinite(each) and each > 0)


def _row(effect: Effect, place: Callable[[float], float]) -> ForestRow:
    known = math.isfinite(effect.ratio)
    low, high = map(place, effect.limits) if known else (WIDTH / 2, WIDTH / 2)
    left, right = (place(effect.lower), place(effect.upper)) if known else (WIDTH / 2, WIDTH / 2)
    tone = _TONES.get(effect.verdict, "noise")
    return ForestRow(effect, tone, place(effect.ratio) if known else None, left, right, low, high)


def of_change(change: Change, *, decides: bool = False) -> Effect:
    """Return the effect of a figure that was judged against earlier runs, by ratio or by difference."""
    metric, found = change.metric, change.comparison
    unit = "%" if found.relative else metric.unit
    known = not math.isnan(found.change)
    ends = tuple(_ratio(change, value) for value in (found.change, found.lower, found.upper))
    return Effect(
        name=metric.title,
        a=format_value(change.before, metric.unit),
        b=format_value(change.after, metric.unit),
        change=change.amount(found.change) if known else "–",
        interval=f"{signed(found.lower)} to {signed(found.upper)} {unit}".rstrip() if known else "–",
        verdict=str(found.verdict),
        ratio=ends[0],
        lower=ends[1],
        upper=ends[2],
        limits=_limits(change),
        decides=decides,
    )


def _ratio(change: Change, amount: float) -> float:
    if change.comparison.relative:
        return 1 + amount / 100
    return (change.before + amount) / change.before if change.before > 0 else math.nan


def _limits(change: Change) -> tuple[float, float]:
    limit = change.comparison.limit
    upper = _ratio(change, limit)
    return (1 / upper if change.comparison.relative else _ratio(change, -limit)), upper


def of_pairs(title: str, figure: ABFigure, *, higher_is_better: bool = False, decides: bool = False) -> Effect:
    """Return the effect of a figure of interleaved runs; without an interval if there are too few pairs."""
    found = figure.paired(higher_is_better=higher_is_better)
    bounded = found.pairs >= FEWEST_PAIRS
    a, b = (format_value(statistics.median(side), figure.unit) for side in (figure.A, figure.B))
    return Effect(
        name=title,
        a=a,
        b=b,
        change=f"×{found.value:.2f}",
        interval=f"{found.lower:.2f}–{found.upper:.2f}"
        if bounded
        else f"{found.pairs} pairs are too few for a verdict",
        verdict=str(found.verdict),
        ratio=found.value,
        lower=found.lower if bounded else 0.0,
        upper=found.upper if bounded else math.inf,
        limits=(1 / LIMIT, LIMIT),
        decides=decides,
    )
