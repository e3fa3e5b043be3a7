"""Time series of a gateway's /metrics. Totals over all gateways come from Redis; the others are per gateway."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["GatewayMetrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
# Limits the number of values of the label `class`: users may send any class name.
_MOST_CLASSES = 500


class GatewayMetrics:
    """Counters, gauges and histograms in a separate registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._classes: set[str] = set()
        self.accepted = self._counter("prompts_accepted", "Prompts that this gateway has accepted.")
        self.refused = self._counter("prompts_refused", "Prompts that this gateway has refused, by reason.", "reason")
        self.ended = self._counter("prompts_ended", "Prompts whose result this gateway has stored.", "status", "worker")
        self.nodes = self._counter("node_runs", "Nodes that workers have executed.", "class")
        self.node_seconds = self._counter("node_seconds", "Execution time of nodes.", "class")
        self.dropped = self._counter("frames_dropped", "Previews and progress that slow clients did not get.")
        self.slow_clients = self._counter("slow_clients", "WebSockets closed because their client did not read.")
        self.wait = Histogram(
            "comfyload_gateway_wait_seconds", "From acceptance to a worker.", registry=self.registry, buckets=_SECONDS
        )
        self.execution = Histogram(
            "comfyload_gateway_execution_seconds",
            "From a worker's acceptance to the result.",
            ("worker",),
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.worker_up = self._gauge("worker_up", "1 while the worker answers the gateway that drives it.", "worker")
        self.worker_owned = self._gauge("worker_driven", "1 while this gateway drives the worker.", "worker")
        self.sockets = self._gauge("sockets", "Open WebSockets of clients.")
        self.differing = self._gauge("workers_differ", "1 where workers differ in node classes or models.")
        shared = " The same on every gateway: take the maximum."
        self._totals = {
            "waiting": self._gauge("waiting", f"Prompts that wait.{shared}"),
            "running": self._gauge("running", f"Prompts that workers execute.{shared}"),
            "bytes": self._gauge("waiting_bytes", f"Bytes of waiting prompts.{shared}"),
            "retries": self._gauge("retries", f"Prompts that were given to a worker a second time.{shared}"),
            "twice": self._gauge("executed_twice", f"Prompts that two workers have executed.{shared}"),
        }

    def show_totals(self, totals: Mapping[str, float]) -> None:
        """Set the gauges to the totals counted in Redis."""
        for name, gauge in self._totals.items():
            gauge.set(totals.get(name, 0.0))

    def note_node(self, class_type: str, seconds: float) -> None:
        """Count an executed node and its execution time."""
        if len(self._classes) < _MOST_CLASSES:
            self._classes.add(class_type)
        name = class_type if class_type in self._classes else "other"
        self.nodes.labels(name).inc()
        self.node_seconds.labels(name).inc(seconds)

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(f"comfyload_gateway_{name}", help, labels, registry=self.registry)

    def _gauge(self, name: str, help: str, *labels: str) -> Gauge:
        return Gauge(f"comfyload_gateway_{name}", help, labels, registry=self.registry)
