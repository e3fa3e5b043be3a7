"""Cumulative distributions of prompts' times as SVG: of one run, or of two sides with the area between them.

A bound on a percentile is a point of the drawing; it is met if the curve passes above it.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from pytest_comfyload.metrics.registry import METRICS
from pytest_comfyload.metrics.units import format_value
from pytest_comfyload.report.html.lane_paths import WIDTH, line_path, round_ticks
from pytest_comfyload.result.checks import Check
from pytest_comfyload.result.load_result import LoadResult

__all__ = ["Ecdf", "EcdfBound", "EcdfCurve", "ecdfs_of"]

# Maximum number of steps of a curve, and number of strips in the shading between two.
_MOST_STEPS, _STRIPS = 200, 100
# As shares of the data's range: the margin on each side, and how far off a bound that is met is still drawn.
_ROOM, _FAR = 0.06, 1.0
_SHARES = (5, 25, 50, 75, 90, 95, 99, 100)
_PERCENTILE = re.compile(r"(?P<time>\w+)\.p(?P<share>\d+(?:\.\d+)?)")
# As in `goodput(total_time=30).share > 95`: more than 95 percent of the prompts within 30 s.
_GOODPUT = re.compile(r"goodput\((?P<time>\w+)=(?P<bound>[\d.]+)\)\.share")


@dataclass(frozen=True, slots=True)
class EcdfCurve:
    """An SVG path and the CSS class that styles it."""

    name: str
    style: str
    d: str


@dataclass(frozen=True, slots=True)
class EcdfBound:
    """A bound, at `x` and `y` in percent of the drawing from the upper left; `left`: its label is on its left."""

    words: str
    met: bool
    x: float
    y: float
    left: bool


@dataclass(frozen=True, slots=True)
class Ecdf:
    """A drawing. `shades`: where the second side is slower or faster; `beyond`: bounds that are met far to the right.

    `ticks` are in percent of the width, with labels; `table` has the time of each side for each share of prompts.
    """

    title: str
    words: str
    curves: tuple[EcdfCurve, ...]
    shades: tuple[EcdfCurve, ...]
    bounds: tuple[EcdfBound, ...]
    beyond: tuple[str, ...]
    ticks: tuple[tuple[float, str], ...]
    table: tuple[tuple[str, tuple[str, ...]], ...]


def ecdfs_of(sides: Sequence[tuple[str, Sequence[LoadResult]]], checks: Sequence[Check]) -> tuple[Ecdf, ...]:
    """Draw the times shown in summaries, for one or two sides (name, runs); the total time first."""
    shown = sorted((spec for spec in METRICS.values() if spec.terminal), key=lambda spec: spec.name != "total_time")
    drawn = []
    for spec in shown:
        samples = [_sample(name, spec.name, runs) for name, runs in sides]
        if all(sample.values for sample in samples):
            drawn.append(_drawn(spec.title, samples, list(dict.fromkeys(_limits(spec.name, checks)))))
    return tuple(drawn)


# --- samples ---


@dataclass(frozen=True, slots=True)
class _Sample:
    """The sorted times of the prompts that succeeded, out of `prompts`; failures have no time."""

    name: str
    values: Sequence[float]
    prompts: int

    def at(self, share: float) -> float | None:
        """Return the nearest-rank percentile; None if it lies among the failures."""
        rank = max(1, math.ceil(share / 100 * self.prompts - 1e-9))
        return self.values[rank - 1] if rank <= len(self.values) else None

    def share(self, value: float) -> float:
        return 100 * bisect_right(self.values, value) / self.prompts

    @property
    def words(self) -> str:
        median = "∞" if (value := self.at(50)) is None else format_value(value, "s")
        failed = self.prompts - len(self.values)
        return f"{self.name} n = {self.prompts}, p50 {median}{f', {failed} failed' if failed else ''}".lstrip()


def _sample(name: str, time: str, loads: Iterable[LoadResult]) -> _Sample:
    distributions = [getattr(load, time) for load in loads]
    return _Sample(
        name, sorted(chain.from_iterable(each.values for each in distributions)), sum(each.n for each in distributions)
    )


# --- bounds ---


@dataclass(frozen=True, slots=True)
class _Limit:
    """A bound in seconds on the time within which `share` percent of the prompts must finish."""

    words: str
    met: bool
    bound: float
    share: float


def _limits(time: str, checks: Iterable[Check]) -> Iterator[_Limit]:
    for check in checks:
        percentile, goodput = _PERCENTILE.fullmatch(check.metric), _GOODPUT.fullmatch(check.metric)
        if percentile and percentile["time"] == time:
            yield from _limit(check, check.bound, float(percentile["share"]))
        elif goodput and goodput["time"] == time:
            yield from _limit(check, float(goodput["bound"]), check.bound)


def _limit(check: Check, bound: float, share: float) -> Iterator[_Limit]:
    if math.isfinite(bound) and bound >= 0 and 0 <= share <= 100:
        yield _Limit(f"{check.metric} {check.op} {check.written_bound}", check.passed, bound, share)


# --- drawing ---


@dataclass(frozen=True, slots=True)
class _Axis:
    """The horizontal axis, in seconds."""

    low: float
    high: float

    @classmethod
    def over(cls, values: Sequence[float]) -> _Axis:
        low, high = min(values), max(values)
        margin = _ROOM * (high - low) or 0.1 * abs(high) or 1.0
        # Only a damaged file has negative times.
        return cls(max(min(low, 0.0), low - margin), high + margin)

    def x(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low) * WIDTH

    def percent(self, value: float) -> float:
        return 100 * self.x(value) / WIDTH


def _drawn(title: str, samples: Sequence[_Sample], limits: Sequence[_Limit]) -> Ecdf:
    ends = [end for sample in samples for end in (sample.values[0], sample.values[-1])]
    reach = max(ends) + _FAR * max(max(ends) - min(ends), 0.5 * max(ends))
    inside = [each for each in limits if not each.met or each.bound <= reach]
    axis = _Axis.over([*ends, *(each.bound for each in inside)])
    styles = ("after",) if len(samples) == 1 else ("before", "after")
    return Ecdf(
        title=title,
        words="; ".join(sample.words for sample in samples),
        curves=tuple(
            EcdfCurve(each.name, style, _curve(each, axis)) for each, style in zip(samples, styles, strict=True)
        ),
        shades=tuple(_shades(samples[0], samples[1], axis)) if len(samples) > 1 else (),
        bounds=tuple(_bound(each, axis) for each in inside),
        beyond=tuple(each.words for each in limits if each not in inside),
        ticks=tuple((axis.percent(at), format_value(at, "s")) for at in round_ticks(axis.low, axis.high)),
        table=tuple((f"{share} %", tuple(_time(each.at(share)) for each in samples)) for share in _SHARES),
    )


def _time(value: float | None) -> str:
    return "∞" if value is None else format_value(value, "s")


def _bound(limit: _Limit, axis: _Axis) -> EcdfBound:
    x = axis.percent(limit.bound)
    return EcdfBound(limit.words, limit.met, x, 100 - limit.share, x > 50)


def _curve(sample: _Sample, axis: _Axis) -> str:
    step = max(1, math.ceil(len(sample.values) / _MOST_STEPS))
    values = [*sample.values[:-1:step], sample.values[-1]]
    points = [(0.0, 100.0)]
    for value in values:
        points += [(axis.x(value), points[-1][1]), (axis.x(value), 100 - sample.share(value))]
    return line_path([*points, (WIDTH, points[-1][1])])


def _shades(a: _Sample, b: _Sample, axis: _Axis) -> Iterator[EcdfCurve]:
    """Yield the areas between the curves where the second is slower and where it is faster, up to either's failures."""
    shares = [100 * (number + 0.5) / _STRIPS for number in range(_STRIPS)]
    strips = [(share, a.at(share), b.at(share)) for share in shares]
    known = [(share, one, two) for share, one, two in strips if one is not None and two is not None and one != two]
    half = 50 / _STRIPS
    paths: dict[str, list[str]] = {}
    for share, one, two in known:
        style = "slower" if two > one else "faster"
        left, right = sorted((axis.x(one), axis.x(two)))
        top, bottom = 100 - share - half, 100 - share + half
        paths.setdefault(style, []).append(f"M{left:.1f} {top:.1f}H{right:.1f}V{bottom:.1f}H{left:.1f}Z")
    for style, pieces in paths.items():
        yield EcdfCurve(f"B is {style}", style, "".join(pieces))
