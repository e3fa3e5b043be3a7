"""Where a difference of the whole time came from: the mean of each phase and node class, one step after the other."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_comfyload.history.index import Row
from pytest_comfyload.metrics.units import format_value
from pytest_comfyload.report.html.forest import WIDTH

__all__ = ["Waterfall", "WaterfallStep", "waterfall"]

# Steps below this share of all of them are one together.
_LEAST_SHARE = 0.02
_SENDING, _AROUND = ("send_lag", "submit_time"), ("queue_time", "delivery_time", "fetch_time")
_NODE, _MEAN = "node_time.", ".mean"
_OTHERS, _BETWEEN = "everything else", "between nodes"


@dataclass(frozen=True, slots=True)
class WaterfallStep:
    """`left`, `right`: the places of a drawing of `WIDTH`, where `end` is the sum so far."""

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
    """`start` and `end` are the places of both sides' sums."""

    before: str
    after: str
    change: str
    start: float
    end: float
    steps: tuple[WaterfallStep, ...]


def waterfall(before: Sequence[Row], after: Sequence[Row]) -> Waterfall | None:
    """Explain the step from the mean of some runs to that of others; None where their phases are not known."""
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
    """Keep the moves that matter, phases in their order, and the sum of the others as the last."""
    whole = math.fsum(map(abs, moves.values()))
    kept = {name: move for name, move in moves.items() if abs(move) >= _LEAST_SHARE * whole and move}
    others = math.fsum(move for name, move in moves.items() if name not in kept)
    return {**kept, _OTHERS: others} if len(kept) < len(moves) else kept


def _mean_parts(rows: Sequence[Row]) -> dict[str, float]:
    """Return the means over runs of the seconds of a prompt, by phase, the generation by node class."""
    known = [parts for row in rows if (parts := _parts(row.figures))]
    names = dict.fromkeys(name for parts in known for name in parts)
    return {name: statistics.fmean(parts.get(name, 0.0) for parts in known) for name in names}


def _parts(figures: Mapping[str, float]) -> dict[str, float]:
    """Empty where the phases of a run are not known."""
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
