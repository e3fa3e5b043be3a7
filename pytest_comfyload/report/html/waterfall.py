"""A waterfall chart that breaks a difference in total time down into the means of the phases and node classes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_comfyload.history.index import Row
from pytest_comfyload.metrics.units import format_value
from pytest_comfyload.report.html.forest import WIDTH

__all__ = ["Waterfall", "WaterfallStep", "waterfall"]

# Steps below this share of the sum of all steps are merged into one.
_LEAST_SHARE = 0.02
_SENDING, _AROUND = ("send_lag", "submit_time"), ("queue_time", "delivery_time", "fetch_time")
_NODE, _MEAN = "node_time.", ".mean"
_OTHERS, _BETWEEN = "everything else", "between nodes"


@dataclass(frozen=True, slots=True)
class WaterfallStep:
    """A step; `left` and `right` are positions from 0 to `WIDTH`, and `end` is that of the running total."""

    name: str
    before: str
    after: str
    change: str
    tone: str
    left: float
    right: float
    end: float


@dataclass(frozen=True, slots=True)
class Waterfall:
    """The chart; `start` and `end` are the positions of both sides' totals."""

    before: str
    after: str
    change: str
    start: float
    end: float
    steps: tuple[WaterfallStep, ...]


def waterfall(before: Sequence[Row], after: Sequence[Row]) -> Waterfall | None:
    """Break down the difference between the means of two sets of runs; None if the phases of either are unknown."""
    a, b = _mean_parts(before), _mean_parts(after)
    if not a or not b:
        return None
    moves = _gathered({name: b.get(name, 0.0) - a.get(name, 0.0) for name in dict.fromkeys([*a, *b])})
    start, end = math.fsum(a.values()), math.fsum(b.values())
    levels = [start]
    for move in moves.values():
        levels.append(levels[-1] + move)
    low, high = min([*levels, end]), max([*levels, end])
    margin = 0.08 * (high - low) or 1.0

    def place(seconds: float) -> float:
        return round((seconds - low + margin) / (high - low + 2 * margin) * WIDTH, 1)

    steps = []
    for (name, move), level in zip(moves.items(), levels, strict=False):
        left, right = sorted((place(level), place(level + move)))
        known = name in a or name in b
        steps.append(
            WaterfallStep(
                name,
                format_value(a.get(name, 0.0), "s") if known else "",
                format_value(b.get(name, 0.0), "s") if known else "",
                _signed(move),
                "slower" if move > 0 else "faster",
                left,
                right,
                place(level + move),
            )
        )
    return Waterfall(
        format_value(start, "s"), format_value(end, "s"), _signed(end - start), place(start), place(end), tuple(steps)
    )


def _signed(seconds: float) -> str:
    text = format_value(abs(seconds), "s")
    return text if text == "0 s" else f"{'−' if seconds < 0 else '+'}{text}"


def _gathered(moves: Mapping[str, float]) -> dict[str, float]:
    """Keep the moves that matter in their order, and append the sum of the others."""
    whole = math.fsum(map(abs, moves.values()))
    kept = {name: move for name, move in moves.items() if abs(move) >= _LEAST_SHARE * whole and move}
    others = math.fsum(move for name, move in moves.items() if name not in kept)
    return {**kept, _OTHERS: others} if len(kept) < len(moves) else kept


def _mean_parts(rows: Sequence[Row]) -> dict[str, float]:
    """Return a prompt's mean seconds over runs, by phase, with the generation split by node class."""
    known = [parts for row in rows if (parts := _parts(row.figures))]
    names = dict.fromkeys(name for parts in known for name in parts)
    return {name: statistics.fmean(parts.get(name, 0.0) for parts in known) for name in names}


def _parts(figures: Mapping[str, float]) -> dict[str, float]:
    """Return a prompt's mean seconds in one run; empty if the run's phases are unknown."""
    generation = figures.get("generation_time.mean", math.nan)
    prompts = figures.get("generation_time.n", 0.0) - figures.get("generation_time.failed", 0.0)
    phases = {name: figures.get(f"{name}{_MEAN}", 0.0) for name in (*_SENDING, *_AROUND)}
    if prompts <= 0 or not all(map(math.isfinite, (generation, *phases.values()))):
        return {}
    nodes = {
        name.removeprefix(_NODE).removesuffix(_MEAN): mean
        * figures.get(f"{name.removesuffix(_MEAN)}.n", prompts)
        / prompts
        for name, mean in figures.items()
        if name.startswith(_NODE) and name.endswith(_MEAN)
    }
    return {
        "sending": phases["send_lag"] + phases["submit_time"],
        "queue": phases["queue_time"],
        **dict(sorted(nodes.items(), key=lambda each: -each[1])),
        _BETWEEN: generation - math.fsum(nodes.values()),
        "delivery": phases["delivery_time"],
        "fetch": phases["fetch_time"],
    }
