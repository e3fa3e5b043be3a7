"""A run over time as lanes on one time axis, in SVG, so that they work in print and without scripts.

Arrivals, prompts in flight and waiting, total times by outcome, throughput, what each server executed, and each GPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from pytest_comfyload.history.record import Record
from pytest_comfyload.metrics.units import counted, format_value
from pytest_comfyload.report.html.lane_paths import (
    HEIGHT,
    MOST_POINTS,
    MOST_PROMPTS,
    ROOM,
    WIDTH,
    Lane,
    Mark,
    Points,
    TimeAxis,
    area_path,
    boxes_path,
    dots_path,
    end_of,
    height_of,
    line_path,
    round_ticks,
)
from pytest_comfyload.report.html.server_lanes import executor_lanes, gpu_lanes, memory_lanes
from pytest_comfyload.result.outcome import Outcome, OutcomeStatus

__all__ = ["Lanes", "delivered", "lanes_of"]

# Number of bars in the lanes of arrivals and throughput.
BINS = 60


@dataclass(frozen=True, slots=True)
class Lanes:
    """The lanes of a run. `seconds` is the length of the axis; `ticks` are in percent of the width, with labels."""

    seconds: float
    ticks: tuple[tuple[float, str], ...]
    lanes: tuple[Lane, ...]


def lanes_of(record: Record) -> Lanes | None:
    """Return the lanes of a run; None if its prompts were not kept."""
    outcomes = [outcome for outcome in record.outcomes if not outcome.warmup]
    if not outcomes:
        return None
    start = record.facts.window[0]
    ends = (end - start for outcome in outcomes if (end := end_of(outcome)) is not None)
    seconds = max([record.facts.window[1] - start, *ends, 1e-3])
    axis = TimeAxis(start, seconds)
    lanes = (
        _arrivals(outcomes, axis),
        _in_flight(outcomes, axis),
        _total_times(record, outcomes, axis),
        _throughput(record, outcomes, axis),
        *executor_lanes(outcomes, axis),
        *gpu_lanes(record.facts.gpu_usage, axis),
        *memory_lanes(record.facts.server_usage, axis),
    )
    ticks = tuple((100 * at / seconds, format_value(at, "s")) for at in round_ticks(0.0, seconds))
    return Lanes(seconds, ticks, tuple(lane for lane in lanes if lane is not None))


def _in_flight(outcomes: Sequence[Outcome], axis: TimeAxis) -> Lane:
    """Return the lane of the number of prompts in flight, and how many of them were queued."""
    flying, waiting = list[tuple[float, int]](), list[tuple[float, int]]()
    for outcome in outcomes:
        line, end = outcome.timeline, end_of(outcome)
        if line is None or end is None:
            continue
        flying += [(line.sent, 1), (end, -1)]
        if line.accepted is not None:
            waiting += [(line.accepted, 1), (end if line.started is None else line.started, -1)]
    most, most_waiting = _most(flying), _most(waiting)
    top = max(most, 1) * (1 + ROOM)
    marks = (
        Mark("flying", area_path(_steps(flying, top, axis)), "in flight"),
        Mark("waiting", line_path(_steps(waiting, top, axis)), "waiting in the queue"),
    )
    words = f"at most {counted(most, 'prompt')} in flight, {most_waiting} of them waiting"
    return Lane("Prompts", f"{most}", tuple(mark for mark in marks if len(mark.d) > 1), words)


def _most(changes: Sequence[tuple[float, int]]) -> int:
    return max(accumulate(change for _, change in sorted(changes)), default=0)


def _steps(changes: Sequence[tuple[float, int]], top: float, axis: TimeAxis) -> Points:
    """Return the running count as a staircase, with the highest value in each column of the drawing."""
    columns: dict[int, int] = {}
    count, last = 0, 0
    for time, change in sorted(changes):
        column = round(axis.x(time) * MOST_POINTS / WIDTH)
        if column > last + 1:  # only the ends of a step: the line between them is straight
            columns[last + 1] = columns[column - 1] = count
        columns[column] = max(columns.get(column, count), count + change)
        count, last = count + change, column
    return [(column * WIDTH / MOST_POINTS, height_of(value, top)) for column, value in sorted(columns.items())]


def _total_times(record: Record, outcomes: Sequence[Outcome], axis: TimeAxis) -> Lane | None:
    """Return the lane of each prompt's total time, at its intended start; failures are along the top."""
    drawn = outcomes[:: math.ceil(len(outcomes) / MOST_PROMPTS)]
    good = [(each.intended, each.total_time) for each in drawn if each.succeeded and each.total_time is not None]
    bad = [each for each in outcomes if not each.succeeded]
    bounds = [
        check.bound
        for test in record.checks
        for check in test.checks
        if check.metric.startswith("total_time.") and check.op in ("<", "<=") and math.isfinite(check.bound)
    ]
    top = max([*(total for _, total in good), *bounds], default=0.0) * (1 + ROOM)
    if not top:
        return None
    edge = (1 - 2 * ROOM) * top
    memory = [each for each in bad if each.status is OutcomeStatus.OOM]
    others = [each for each in bad if each.status is not OutcomeStatus.OOM]

    def dots(points: Iterable[tuple[float, float]]) -> str:
        return dots_path((axis.x(at), height_of(total, top)) for at, total in points)

    marks = [
        Mark("dot", dots(good), "succeeded"),
        Mark("dot oom", dots((each.intended, edge) for each in memory), "out of memory"),
        Mark("dot failed", dots((each.intended, edge) for each in others), "failed otherwise"),
        *(_bound_mark(bound, top) for bound in sorted(set(bounds))),
    ]
    words = f"{len(good)} successes drawn, {len(bad)} failures"
    return Lane("Total time", format_value(top, "s"), tuple(mark for mark in marks if mark.d), words)


def _bound_mark(seconds: float, top: float) -> Mark:
    y = height_of(seconds, top)
    return Mark("bound", line_path([(0, y), (WIDTH, y)]), f"SLO {format_value(seconds, 's')}")


def _arrivals(outcomes: Sequence[Outcome], axis: TimeAxis) -> Lane | None:
    """Return the lane of the intended starts of prompts, regardless of whether the server kept up."""
    return _per_minute("Arrivals", "prompts/min", ((outcome.intended, 1) for outcome in outcomes), axis)


def _throughput(record: Record, outcomes: Sequence[Outcome], axis: TimeAxis) -> Lane | None:
    ended = ((end_of(each), len(each.outputs)) for each in outcomes if each.succeeded)
    return _per_minute(
        "Throughput", f"{delivered(record)}/min", ((end, count) for end, count in ended if end is not None), axis
    )


def delivered(record: Record) -> str:
    """Return what the prompts of a run produced: `images`, or `outputs` if there are other files among them."""
    return "images" if record.figures.get("delivers", "images") == "images" else "outputs"


def _per_minute(title: str, unit: str, happened: Iterable[tuple[float, int]], axis: TimeAxis) -> Lane | None:
    """Return a lane of bars from (time, count) pairs, as a rate per minute; None if nothing happened."""
    counts = [0] * BINS
    for time, count in happened:
        counts[min(BINS - 1, int(axis.x(time) * BINS / WIDTH))] += count
    most = max(counts)
    if not most:
        return None
    width = WIDTH / BINS
    top = most * (1 + ROOM)
    boxes = ((n * width, (n + 0.85) * width, height_of(count, top), HEIGHT) for n, count in enumerate(counts))
    mean, peak = sum(counts) * 60 / axis.seconds, top * 60 * BINS / axis.seconds
    words = f"{format_value(mean, unit)} on average"
    return Lane(title, format_value(peak, "/min"), (Mark("bars", boxes_path(boxes)),), words)
