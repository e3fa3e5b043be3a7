"""OpenTelemetry data of a run: each prompt as a trace, the run's figures as metrics.

Times are the run's own, counted from its epoch. On a simulated server they are virtual seconds, and every span and data
point has `comfyload.simulated`. Names, units and descriptions come from the declarations of the metrics.
"""

from __future__ import annotations

import contextlib
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

from opentelemetry.sdk.metrics.export import Gauge, Metric, MetricsData, NumberDataPoint, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Span, Status, StatusCode, set_span_in_context

from pytest_comfyload.history.redaction import public_text
from pytest_comfyload.metrics.registry import METRICS
from pytest_comfyload.metrics.spec import MetricSpec
from pytest_comfyload.protocol.timeline import NodeInterval
from pytest_comfyload.result.generation_parts import is_loader, parts_of, weights_time
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import PHASES, Outcome

__all__ = ["metrics_data", "simulation", "trace_batches"]

SCOPE = "pytest_comfyload"
# Spans after which a request is sent; the spans of one prompt are never split.
MOST_SPANS = 1000
# Latest time in nanoseconds: OTLP uses unsigned 64-bit integers, but several backends use signed ones.
_LAST = 2**63 - 1
# Spellings in the Unified Code for Units of Measure; other units become annotations in braces.
_UCUM = {"s": "s", "min": "min", "%": "%", "B": "By", "°C": "Cel", "W": "W", "J": "J", "MHz": "MHz"}
# The points of a timeline that delimit its phases.
_POINTS = ("sent", "accepted", "started", "ended", "delivered", "fetched")


def simulation(load: LoadResult) -> dict[str, Any]:
    scale = load.facts.time_scale
    return {"comfyload.simulated": load.simulated, **({} if scale is None else {"comfyload.time_scale": scale})}


# --- traces ---


class _Ended(SpanProcessor):
    """Span processor that keeps the ended spans until they are taken out."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


class _PromptIds(RandomIdGenerator):
    """Id generator that gives a trace the id of its prompt, so that it can be looked up by it."""

    prompt_id = ""

    def generate_trace_id(self) -> int:
        with contextlib.suppress(ValueError):
            return uuid.UUID(self.prompt_id).int or super().generate_trace_id()
        return super().generate_trace_id()


def trace_batches(load: LoadResult, resource: Resource) -> Iterator[tuple[int, Sequence[ReadableSpan]]]:
    """Yield batches of spans, each with the number of prompts that it contains."""
    ended, ids, prompts = _Ended(), _PromptIds(), 0
    provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False, id_generator=ids)
    provider.add_span_processor(ended)
    trace = _PromptTrace(load, provider.get_tracer(SCOPE))
    for outcome in load.all_outcomes:
        ids.prompt_id = outcome.prompt_id
        trace.add(outcome)
        prompts += 1
        if len(ended.spans) >= MOST_SPANS:
            yield prompts, ended.spans
            ended.spans, prompts = [], 0
    if prompts:
        yield prompts, ended.spans


class _PromptTrace:
    def __init__(self, load: LoadResult, tracer: Any) -> None:
        self._epoch = _nanoseconds(load.facts.epoch)
        self._common = {"comfyload.run_id": load.facts.run_id, **simulation(load)}
        self._tracer = tracer

    def add(self, outcome: Outcome) -> None:
        """Add the spans of a prompt. The root span covers all known times; phases not reached have no span."""
        line = outcome.timeline
        points = [] if line is None else [getattr(line, point) for point in _POINTS]
        known = [outcome.intended, *(point for point in points if point is not None)]
        root = self._begin(f"prompt {outcome.workflow}", known[0], None, _attributes(outcome))
        if not outcome.succeeded:
            root.set_status(Status(StatusCode.ERROR, public_text(outcome.error or str(outcome.status))))
        for phase, begin, end in zip(PHASES, [outcome.intended, *points], points, strict=False):
            if begin is not None and end is not None:
                span = self._begin(phase.removesuffix("_time"), begin, root)
                if phase == "generation_time":
                    self._add_nodes(outcome.nodes, span)
                self._end(span, begin, end)
        if outcome.generation_time is None:
            # Execution began but was cut off: only the nodes are known.
            self._add_nodes(outcome.nodes, root)
        self._end(root, known[0], max(known))

    def _add_nodes(self, nodes: Sequence[NodeInterval], parent: Span) -> None:
        for node in nodes:
            span = self._begin(node.class_type, node.start, parent, _node_attributes(node))
            if ready := weights_time(node):
                # A sampler loads its model's weights onto the GPU before its first step.
                begun = node.start + ready
                for name, begin, end in (("model_load", node.start, begun), ("sampling", begun, node.end)):
                    self._end(self._begin(name, begin, span), begin, end)
            self._end(span, node.start, node.end)

    def _begin(self, name: str, start: float, parent: Span | None, attributes: Mapping[str, Any] | None = None) -> Span:
        context = None if parent is None else set_span_in_context(parent)
        span: Span = self._tracer.start_span(
            name, context, attributes={**self._common, **(attributes or {})}, start_time=self._at(start)
        )
        return span

    def _end(self, span: Span, start: float, end: float) -> None:
        span.end(self._at(max(start, end)))

    def _at(self, seconds: float) -> int:
        return min(max(self._epoch + _nanoseconds(seconds), 0), _LAST)


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9) if math.isfinite(seconds) else 0


def _attributes(outcome: Outcome) -> dict[str, Any]:
    """Return who sent what to which server and how it ended, without texts and inputs."""
    values = {
        name: getattr(outcome, name)
        for name in (
            "prompt_id", "server", "worker", "workflow", "group", "stage", "user", "iteration", "warmup", "contended",
            "stalled", "void", "images",
        )
    }  # fmt: skip
    values["status"] = str(outcome.status)
    values["cache_class"] = None if outcome.cache_class is None else str(outcome.cache_class)
    return {f"comfyload.{name}": value for name, value in values.items() if value is not None}


def _node_attributes(node: NodeInterval) -> dict[str, Any]:
    parts = [part.removesuffix("_time") for part in parts_of(node.class_type)]
    values = {
        "node_id": node.node_id,
        "node_class": node.class_type,
        "part": "model_load" if is_loader(node.class_type) else next(iter(parts), None),
        "steps_per_second": node.steps_per_second,
    }
    return {f"comfyload.{name}": value for name, value in values.items() if value is not None}


# --- metrics ---


def metrics_data(load: LoadResult, resource: Resource) -> MetricsData | None:
    """Return the figures of the run as gauges at the end of its window; None if it has no figures."""
    metrics = _metrics(load)
    scope = ScopeMetrics(InstrumentationScope(SCOPE), metrics, "")
    return MetricsData([ResourceMetrics(resource, [scope], "")]) if metrics else None


def _metrics(load: LoadResult) -> list[Metric]:
    metrics = []
    for spec in METRICS.values():
        points = [_point(load, value, labels) for value, labels in _figures(load, spec)]
        if points:
            metrics.append(Metric(f"comfyload.{spec.name}", spec.help, _ucum(spec.unit), Gauge(points)))
    counts = load.accounting.by_status
    ended = [_point(load, count, {"status": str(status)}) for status, count in counts.items()]
    if ended:
        metrics.append(Metric("comfyload.prompts", "Prompts in the window, by how they ended.", "1", Gauge(ended)))
    return metrics


def _figures(load: LoadResult, spec: MetricSpec) -> Iterator[tuple[float, Mapping[str, str]]]:
    """Yield the values of a metric that have samples, each with its distinguishing labels."""
    measured = attrgetter(spec.name)(load)
    members = measured.items() if spec.by_class else [("", measured)]
    for node_class, metric in members:
        for stat in spec.stats or ("",):
            value = getattr(metric, stat) if stat else metric
            if value.n and not math.isnan(number := value.plain):
                labels = {"class": node_class, "stat": stat}
                yield number, {name: label for name, label in labels.items() if label}


def _point(load: LoadResult, value: float, labels: Mapping[str, str]) -> NumberDataPoint:
    facts = load.facts
    epoch, (start, end) = _nanoseconds(facts.epoch), facts.window
    about = {"test": facts.title, "workflow": facts.workflow, **simulation(load)}
    return NumberDataPoint(
        attributes={**about, **labels},
        start_time_unix_nano=min(max(epoch + _nanoseconds(start), 0), _LAST),
        time_unix_nano=min(max(epoch + _nanoseconds(end), 0), _LAST),
        value=value,
    )


def _ucum(unit: str) -> str:
    return "/".join(_UCUM.get(part, f"{{{part}}}") for part in unit.split("/")) if unit else "1"
