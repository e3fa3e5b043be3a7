"""The data of one run for the chart on its commit's page: prompts and their phases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pytest_comfyload.history.record import Record
from pytest_comfyload.protocol.timeline import NodeInterval
from pytest_comfyload.report.html.encoding import figure
from pytest_comfyload.result.generation_parts import is_loader, parts_of, weights_time
from pytest_comfyload.result.outcome import Outcome

__all__ = ["SEGMENTS", "run_data"]

# In the order in which a prompt goes through them.
SEGMENTS = (
    "sending", "queue", "model load", "sampling", "decode", "save", "other nodes", "delivery", "fetch",
)  # fmt: skip
# A chart cannot show more rows than it has pixels.
MOST_PROMPTS = 1000


def run_data(record: Record) -> dict[str, Any]:
    measured = [outcome for outcome in record.outcomes if not outcome.warmup]
    drawn = _evenly(measured, MOST_PROMPTS)
    start = record.facts.window[0]
    return {
        "window": [0, figure(record.facts.window[1] - start)],
        "prompts": len(measured),
        "drawn": [_prompt(outcome) for outcome in drawn],
        "segments": _segments(drawn, start),
    }


def _prompt(outcome: Outcome) -> list[Any]:
    """Return the values in a prompt's tooltip."""
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
    """Return three columns for each segment: the prompts' indexes, the start and the end, in seconds of the run."""
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
    """Yield the segments of a node within the generation; none for a node of no known kind, shown as "other nodes"."""
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


def _evenly(items: Sequence[Any], most: int) -> Sequence[Any]:
    """Return at most `most` items, evenly spaced, including the first and the last."""
    last = len(items) - 1
    return items if last < most else [items[round(place * last / (most - 1))] for place in range(most)]


def _time(seconds: float) -> float:
    return round(seconds, 3) + 0.0
