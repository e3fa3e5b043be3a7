"""The lanes of servers and GPUs: what each server executed when, and the readings of the sensors."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pytest_comfyload.metrics.units import counted, format_value
from pytest_comfyload.report.html.lane_paths import (
    HEIGHT,
    MOST_CLASSES,
    MOST_LANES,
    MOST_POINTS,
    MOST_PROMPTS,
    ROOM,
    Lane,
    Mark,
    TimeAxis,
    boxes_path,
    end_of,
    height_of,
    line_path,
)
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.telemetry import GpuSample, UsageSample

__all__ = ["executor_lanes", "gpu_lanes", "memory_lanes"]


def executor_lanes(outcomes: Sequence[Outcome], axis: TimeAxis) -> Iterator[Lane]:
    """Yield a lane for each server, showing which node class it executed when."""
    by_server: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.timeline is not None and outcome.timeline.started is not None:
            by_server.setdefault(outcome.ran_on, []).append(outcome)
    spent: dict[str, float] = defaultdict(float)
    for outcome in outcomes:
        for node in outcome.timeline.nodes if outcome.timeline else ():
            spent[node.class_type] += node.end - node.start
    classes = sorted(spent, key=lambda name: -spent[name])[:MOST_CLASSES]
    for server, ran in list(by_server.items())[:MOST_LANES]:
        title = "Executor" if len(by_server) == 1 else server.partition("://")[2]
        yield Lane(title, "", tuple(_executed(ran, classes, axis)), f"{counted(len(ran), 'prompt')} executed")


def _executed(ran: Sequence[Outcome], classes: Sequence[str], axis: TimeAxis) -> Iterator[Mark]:
    drawn = ran[:: math.ceil(len(ran) / MOST_PROMPTS)]
    boxes: dict[str, list[tuple[float, float, float, float]]] = {"": []}
    for outcome in drawn:
        line = outcome.timeline
        assert line is not None
        assert line.started is not None
        end = line.ended if line.ended is not None else (end_of(outcome) or line.started)
        boxes[""].append((axis.x(line.started), axis.x(end), 12, HEIGHT - 12))
        for node in line.nodes:
            if node.class_type in classes:
                box = (axis.x(node.start), axis.x(node.end), 12.0, HEIGHT - 12.0)
                boxes.setdefault(node.class_type, []).append(box)
    yield Mark("fill-0", boxes_path(boxes[""]), "other nodes")
    for number, name in enumerate(classes, 1):
        if found := boxes.get(name):
            yield Mark(f"fill-{number}", boxes_path(found), name)


# --- GPUs ---


@dataclass(frozen=True, slots=True)
class _Gauge:
    """A reading drawn as a curve for each GPU; `top` None: the axis ends slightly above the largest value."""

    title: str
    unit: str
    read: Callable[[GpuSample], float | None]
    top: float | None = None


def _vram(sample: GpuSample) -> float | None:
    if sample.memory_used is None or not sample.memory_total:
        return None
    return 100 * sample.memory_used / sample.memory_total


_GAUGES = (
    _Gauge("GPU utilization", "%", lambda sample: sample.utilization, 100.0),
    _Gauge("GPU memory", "%", _vram, 100.0),
    _Gauge("GPU power", "W", lambda sample: sample.power),
    _Gauge("GPU temperature", "°C", lambda sample: sample.temperature),
    _Gauge("GPU clock", "MHz", lambda sample: sample.clock),
)


def gpu_lanes(samples: Sequence[GpuSample], axis: TimeAxis) -> Iterator[Lane]:
    """Yield a lane for each gauge, with a curve for each GPU; GPUs are numbered in the order of their names."""
    by_gpu: dict[tuple[str, str], list[GpuSample]] = {}
    for sample in samples:
        by_gpu.setdefault((sample.server, sample.gpu), []).append(sample)
    gpus = [sorted(of, key=lambda each: each.time) for _, of in sorted(by_gpu.items())][:MOST_LANES]
    for gauge in _GAUGES:
        curves = [[(each.time, value) for each in of if (value := gauge.read(each)) is not None] for of in gpus]
        if any(curves):
            below = _held_down(gpus, axis) if gauge.title == "GPU clock" else ()
            yield _curves_lane(gauge.title, gauge.unit, curves, axis, gauge.top, below)


def _held_down(gpus: Iterable[Sequence[GpuSample]], axis: TimeAxis) -> Iterator[Mark]:
    """Yield a mark of the times at which any GPU was throttled."""
    held = [each for of in gpus for each in of if each.throttled()]
    if held:
        boxes = ((axis.x(each.time - each.span), axis.x(each.time), 0.0, float(HEIGHT)) for each in held)
        yield Mark("shade", boxes_path(boxes), "throttled")


def _curves_lane(
    title: str,
    unit: str,
    curves: Sequence[Sequence[tuple[float, float]]],
    axis: TimeAxis,
    top: float | None = None,
    below: Iterable[Mark] = (),
) -> Lane:
    """Return a lane of curves, each of (time on the run's clock, value); see `_Gauge` for `top`."""
    values = [value for curve in curves for _, value in curve]
    top = top or max(values) * (1 + ROOM)
    marks = [*below]
    for number, curve in enumerate(curves):
        if curve:
            thinned = curve[:: math.ceil(len(curve) / MOST_POINTS)]
            points = ((axis.x(time), height_of(value, top)) for time, value in thinned)
            name = f"number {number}" if len(curves) > 1 else ""
            marks.append(Mark(f"curve-{number % MOST_CLASSES + 1}", line_path(points), name))
    low, high = (format_value(value, unit) for value in (min(values), max(values)))
    return Lane(title, format_value(top, unit), tuple(marks), f"{low} to {high}")


def memory_lanes(samples: Sequence[UsageSample], axis: TimeAxis) -> Iterator[Lane]:
    """Yield lanes of the memory use that the servers report, in GiB, with a curve for each server."""
    by_server: dict[str, list[UsageSample]] = {}
    for sample in samples:
        by_server.setdefault(sample.server, []).append(sample)
    gauges: tuple[tuple[str, Callable[[UsageSample], float]], ...] = (
        ("VRAM, by the server", lambda sample: sample.vram_used / 2**30),
        ("RAM, by the server", lambda sample: sample.ram_used / 2**30),
    )
    for title, read in gauges:
        curves = [[(each.time, read(each)) for each in of] for of in list(by_server.values())[:MOST_LANES]]
        if any(value for curve in curves for _, value in curve):
            yield _curves_lane(title, "GiB", curves, axis)
