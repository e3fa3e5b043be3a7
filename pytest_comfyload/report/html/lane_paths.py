"""SVG paths of a lane, with time from left to right, and the round ticks of an axis."""

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

# Size of a lane's drawing, which is stretched to the width of the page.
WIDTH, HEIGHT = 1000, 60
# Maximum number of points of a curve, and of prompts drawn individually.
MOST_POINTS, MOST_PROMPTS = 500, 1000
# Maximum number of node classes with a colour of their own, and of servers or GPUs that are drawn.
MOST_CLASSES, MOST_LANES = 4, 8
# Headroom above the largest value, as a share of it.
ROOM = 0.08

Points = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Mark:
    """An SVG path, styled by a CSS class; `name` is its entry in the key, or empty."""

    style: str
    d: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Lane:
    """A lane. `top` is the value at the upper edge, 0 is at the lower one; `words` describes the lane."""

    title: str
    top: str
    marks: tuple[Mark, ...]
    words: str

    @property
    def key(self) -> tuple[Mark, ...]:
        return tuple(mark for mark in self.marks if mark.name)


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """Conversion from the run's clock to positions in the drawing."""

    start: float
    seconds: float

    def x(self, time: float) -> float:
        return min(WIDTH, max(0.0, (time - self.start) / self.seconds * WIDTH))


def round_ticks(low: float, high: float, about: int = 4) -> Iterator[float]:
    """Yield about `about` evenly spaced round values from `low` to `high`; none if the range is empty or infinite."""
    raw = (high - low) / about
    if not 0 < raw < math.inf:
        return
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
    """Return zero-length lines, whose round caps appear as dots."""
    return "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)


def boxes_path(boxes: Iterable[tuple[float, float, float, float]]) -> str:
    """Return the rectangles, each given as (left, right, top, bottom)."""
    return "".join(f"M{left:.1f} {top:.1f}H{right:.1f}V{bottom:.1f}H{left:.1f}Z" for left, right, top, bottom in boxes)


def end_of(outcome: Outcome) -> float | None:
    """Return the time of a prompt's last known event, in seconds of the run's clock; None if it was not sent."""
    line = outcome.timeline
    if line is None:
        return None
    points = (line.fetched, line.delivered, line.ended, line.started, line.accepted)
    return next((at for at in points if at is not None), line.sent)
