"""The data of one run for the charts of its commit's page: prompts and their phases, distributions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from pytest_comfyload.history.record import Record
from pytest_comfyload.metrics.registry import METRICS
from pytest_comfyload.protocol.timeline import NodeInterval
from pytest_comfyload.report.html.encoding import figure
from pytest_comfyload.result.generation_parts import is_loader, parts_of, weights_time
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.validity import measurements

__all__ = ["SEGMENTS", "compared_data", "run_data"]

# In the order in which a prompt comes to them.
SEGMENTS = (
    "sending", "queue", "model load", "sampling", "decode", "save", "other nodes", "delivery", "fetch",
)  # fmt: skip
# More rows than a chart has pixels show nothing more.
MOST_PROMPTS = 1000
MOST_VALUES = 400
BINS = 30


def run_data(record: Record) -> dict[str, Any]:
    measured = [outcome for outcome in record.outcomes if not outcome.warmup]
    drawn = _evenly(measured, MOST_PROMPTS)
    start = record.facts.window[0]
    return {
        "window": [0, figure(record.facts.window[1] - start)],
        "prompts": len(measured),
        "drawn": [_prompt(outcome) for outcome in drawn],
        "segments": _segments(drawn, start),
        "distributions": _distributions(measurements(measured, allow_cached=record.facts.allow_cached)),
    }


def compared_data(record: Record) -> dict[str, Any]:
    """Return what the page that compares two runs needs of each."""
    measured = [outcome for outcome in record.outcomes if not outcome.warmup]
    nodes = record.figures.get("node_time", {})
    return {
        "run": record.run_id,
        "subject": {name: _word(value) for name, value in record.subject.items()},
        "figures": {
            name: {each: figure(times[each]) for each in ("p50", "p95", "mean", "n") if each in times}
            for name in _shown()
            if isinstance(times := record.figures.get(name), dict)
        },
        "throughput": figure(record.figures.get("throughput")),
        "nodes": {
            name: [figure(times.get("p50")), figure(times.get("mean")), times.get("n")] for name, times in nodes.items()
        },
        "distributions": _distributions(measurements(measured, allow_cached=record.facts.allow_cached)),
    }


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _prompt(outcome: Outcome) -> list[Any]:
    """Return what the tooltip says of a prompt."""
    return [
        outcome.prompt_id[:8],
        outcome.user,
        outcome.iteration,
        str(outcome.status),
        figure(outcome.total_time),
        (outcome.text or "")[:80],
    ]


# --- phases over time ---


def _segments(outcomes: Sequence[Outcome], start: float) -> dict[str, list[list[Any]]]:
    """Return, by segment, the numbers of the prompts, where each begins, and where it ends."""
    columns: dict[str, list[list[Any]]] = {name: [[], [], []] for name in SEGMENTS}
    for number, outcome in enumerate(outcomes):
        for name, begin, end in _segments_of(outcome):
            if end > begin:
                for column, value in zip(
                    columns[name], (number, _time(begin - start), _time(end - start)), strict=True
                ):
                    column.append(value)
    return {name: column for name, column in columns.items() if column[0]}


def _segments_of(outcome: Outcome) -> Iterable[tuple[str, float, float]]:
    line = outcome.timeline
    if line is None:
        return
    accepted = line.accepted
    yield "sending", outcome.intended, line.sent if accepted is None else accepted
    if accepted is not None and line.started is not None:
        yield "queue", accepted, line.started
    if line.started is not None and line.ended is not None:
        yield "other nodes", line.started, line.ended
    for node in line.nodes:
        yield from _inside(node)
    if line.ended is not None and line.delivered is not None:
        yield "delivery", line.ended, line.delivered
    if line.delivered is not None and line.fetched is not None:
        yield "fetch", line.delivered, line.fetched


def _inside(node: NodeInterval) -> Iterable[tuple[str, float, float]]:
    """Yield what a node did within the generation; nodes of no known kind are its remainder."""
    parts = parts_of(node.class_type)
    if is_loader(node.class_type):
        yield "model load", node.start, node.end
    elif "sampling_time" in parts:
        ready = node.start + weights_time(node)
        yield "model load", node.start, ready
        yield "sampling", ready, node.end
    elif "decode_time" in parts:
        yield "decode", node.start, node.end
    elif "save_time" in parts:
        yield "save", node.start, node.end


# --- distributions ---


def _distributions(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return, by time, sorted values of the successes (extremes included), their shares in percent, a histogram."""
    found: dict[str, Any] = {}
    for name in _shown():
        values = sorted(v for each in outcomes if each.succeeded and (v := getattr(each, name)) is not None)
        if values:
            # A share of all that were sent: the curve of a run with failures ends below 100.
            whole = len(outcomes) if name == "total_time" else len(values)
            places = _evenly(range(len(values)), MOST_VALUES)
            found[name] = {
                "values": [_time(values[place]) for place in places],
                "shares": [figure(100 * (place + 1) / whole) for place in places],
                "bins": _bins(values),
            }
    return found


def _bins(values: Sequence[float]) -> dict[str, Any]:
    low, high = values[0], values[-1]
    count = max(5, min(BINS, round(2 * len(values) ** 0.5)))
    width = (high - low) / count or max(abs(low), 1e-3) / count
    counts = [0] * count
    for value in values:
        counts[min(count - 1, math.floor((value - low) / width))] += 1
    return {"start": figure(low, 6), "width": figure(width, 6), "counts": counts}


def _evenly(items: Sequence[Any], most: int) -> Sequence[Any]:
    """So many of them at most, the first and the last among them."""
    last = len(items) - 1
    return items if last < most else [items[round(place * last / (most - 1))] for place in range(most)]


def _time(seconds: float) -> float:
    return round(seconds, 3) + 0.0


def _shown() -> list[str]:
    return [spec.name for spec in METRICS.values() if spec.terminal]
