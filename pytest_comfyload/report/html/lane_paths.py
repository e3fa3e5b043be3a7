"""SVG paths of a lane, whose seconds go from left to right, and the round ticks of an axis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pytest_comfyload.result.outcome import Outcome

__all__ = [
    "HEIGHT",
    "MOST_CLASSES",
    "MOST_LANES",
    "MOST_POINTS",
    "MOST_PROMPTS",
    "ROOM",
    "WIDTH",
    "Lane",
    "Mark",
    "Points",
    "TimeAxis",
    "area_path",
    "boxes_path",
    "dots_path",
    "end_of",
    "height_of",
    "line_path",
    "round_ticks",
]

# Of a lane's drawing; it is stretched to the page.
WIDTH, HEIGHT = 1000, 60
# Points of a curve, and prompts that are drawn one by one.
MOST_POINTS, MOST_PROMPTS = 500, 1000
# Node classes with a colour of their own, and lanes of servers, and GPUs.
MOST_CLASSES, MOST_LANES = 4, 8
# Beyond the largest value, as a share of it.
ROOM = 0.08

Points = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Mark:
    """A path of the drawing, in the style of a CSS class; `name` is empty where the key has no entry for it."""

    style: str
    d: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Lane:
    """`top` is what the upper edge stands for, the lower one for 0; `words` describes the lane to a reader."""

    title: str
    top: str
    marks: tuple[Mark, ...]
    words: str

    @property
    def key(self) -> tuple[Mark, ...]:
        return tuple(mark for mark in self.marks if mark.name)


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """From the run's clock to the drawing."""

    start: float
    seconds: float

    def x(self, time: float) -> float:
        return min(WIDTH, max(0.0, (time - self.start) / self.seconds * WIDTH))


def round_ticks(low: float, high: float, about: int = 4) -> Iterator[float]:
    """Yield round values from `low` to `high`, which are apart; `about` so many."""
    raw = (high - low) / about
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * each for each in (1, 2, 5, 10) if unit * each >= raw)
    for number in range(math.ceil(low / step), math.floor(high / step) + 1):
        yield number * step


def height_of(value: float, top: float) -> float:
    return HEIGHT - min(1.0, max(0.0, value / top if top else 0.0)) * HEIGHT


def line_path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def area_path(points: Points) -> str:
    return f"{line_path(points)}L{points[-1][0]:.1f} {HEIGHT}L{points[0][0]:.1f} {HEIGHT}Z" if points else ""


def dots_path(points: Iterable[tuple[float, float]]) -> str:
    """Lines without a length, whose round ends are dots."""
    return "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)


def boxes_path(boxes: Iterable[tuple[float, float, float, float]]) -> str:
    """(left, right, top, bottom)."""
    return "".join(f"M{left:.1f} {top:.1f}H{right:.1f}V{bottom:.1f}H{left:.1f}Z" for left, right, top, bottom in boxes)


def end_of(outcome: Outcome) -> float | None:
    """Return the last moment that is known of a prompt, seconds of the run's clock; None of one that was not sent."""
    line = outcome.timeline
    if line is None:
        return None
    points = (line.fetched, line.delivered, line.ended, line.started, line.accepted)
    return next((at for at in points if at is not None), line.sent)
