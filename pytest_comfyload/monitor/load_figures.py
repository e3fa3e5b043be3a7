"""Prometheus series that only the sender of prompts can measure: phases, node times, steps, model loads.

Names, units and help texts of the series come from the declarations of the metrics.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pytest_comfyload.metrics.registry import METRICS
from pytest_comfyload.monitor.server_record import FINE
from pytest_comfyload.monitor.watch import label_of
from pytest_comfyload.result.generation_parts import step_time
from pytest_comfyload.result.outcome import Outcome, OutcomeStatus

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

__all__ = ["LoadFigures"]

_LABELS = ("server", "workflow")
# Times of a prompt: the metrics in seconds that are also attributes of an outcome.
_TIMES = [spec for spec in METRICS.values() if spec.unit == "s" and not spec.by_class and hasattr(Outcome, spec.name)]


class LoadFigures:
    """Series of the prompts sent. Thread-safe, as the client library is."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry(auto_describe=False)
        self._prompts = Counter(
            "comfyload_prompts", "Prompts sent, by how they ended.", ("server", "status"), registry=registry
        )
        self._times = {
            spec.name: Histogram(f"comfyload_{spec.name}_seconds", spec.help, _LABELS, registry=registry, buckets=FINE)
            for spec in _TIMES
        }
        nodes, steps = METRICS["node_time"], METRICS["steps_per_second"]
        by_class = ("server", "class")
        self._nodes = Histogram(
            f"comfyload_{nodes.name}_seconds", nodes.help, by_class, registry=registry, buckets=FINE
        )
        self._steps = Gauge(f"comfyload_{steps.name}", f"{steps.help} Of the last prompt.", by_class, registry=registry)

    def begin(self, server: str) -> None:
        """Create the series of every status at 0: an alert misses the increase of a series that first appears at 1."""
        for status in OutcomeStatus:
            self._prompts.labels(label_of(server), str(status))

    def add(self, outcome: Outcome) -> None:
        """Count a prompt that ended, warm-up prompts included: they are work for the server like any other."""
        server = label_of(outcome.ran_on)
        self._prompts.labels(server, str(outcome.status)).inc()
        if not outcome.succeeded or outcome.from_cache:
            return
        for name, histogram in self._times.items():
            seconds = getattr(outcome, name)
            if seconds is not None:
                histogram.labels(server, outcome.workflow).observe(seconds)
        for node in outcome.nodes:
            self._nodes.labels(server, node.class_type).observe(node.duration)
            step = step_time(node)
            if step:
                self._steps.labels(server, node.class_type).set(1 / step)

    def collect(self) -> Iterable[Metric]:
        return self._registry.collect()
