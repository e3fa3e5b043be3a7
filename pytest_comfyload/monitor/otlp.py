"""Export of finished runs to an OpenTelemetry collector over OTLP/HTTP; each request is sent once."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

import requests
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExportResult
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace.export import SpanExportResult

from pytest_comfyload.errors import ComfyloadError
from pytest_comfyload.monitor.otlp_data import metrics_data, simulation, trace_batches
from pytest_comfyload.result.load_result import LoadResult

__all__ = ["ExportFailed", "OtlpExporter"]


class ExportFailed(ComfyloadError):
    """The collector did not accept a request; the message says what it did instead."""


class OtlpExporter:
    """Exporter of runs, one after another, from one thread.

    `prompts` and `runs` count what the collector has accepted; `progress` is when (time.monotonic) it last accepted
    a request.
    """

    def __init__(self, url: str, about: Mapping[str, str]) -> None:
        """Configure the export. `url`: the collector's, without `/v1/traces`. `about`: attributes of the session."""
        self._session = _Session()
        self._traces = OTLPSpanExporter(f"{url}/v1/traces", session=self._session)
        self._metrics = OTLPMetricExporter(f"{url}/v1/metrics", session=self._session)
        self._about = about
        self.prompts = self.runs = 0
        self.progress = time.monotonic()

    def export(self, load: LoadResult) -> None:
        """Send the traces and metrics of a run. Raises: ExportFailed."""
        resource = self._resource(load)
        with _silent():
            for prompts, spans in trace_batches(load, resource):
                self._expect(self._traces.export(spans) is SpanExportResult.SUCCESS)
                self.prompts += prompts
            if data := metrics_data(load, resource):
                self._expect(self._metrics.export(data) is MetricExportResult.SUCCESS)
        self.runs += 1

    def _expect(self, taken: bool) -> None:
        if not taken:
            raise ExportFailed(self._session.problem or "did not take what was sent")
        self.progress = time.monotonic()

    def _resource(self, load: LoadResult) -> Resource:
        facts = load.facts
        about: dict[str, Any] = {
            **self._about,
            "comfyload.run_id": facts.run_id,
            "comfyload.test": facts.title,
            "comfyload.scenario": facts.scenario,
            "comfyload.servers": list(facts.servers),
            "comfyload.state": load.state,
            **simulation(load),
        }
        # The environment (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES) takes precedence over our default.
        default = Resource({"service.name": "pytest-comfyload"})
        return default.merge(OTELResourceDetector().detect()).merge(Resource(about))


class _Session(requests.Session):
    """Session that discards responses, follows no redirects (headers carry credentials), and keeps the last error."""

    problem = ""

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        try:
            response = super().request(*args, **{**kwargs, "stream": True, "allow_redirects": False})
        except requests.Timeout:
            self.problem = "did not answer in time"
            raise
        except requests.RequestException as error:
            self.problem = f"was not reached ({_cause(error)})"
            raise
        response.close()
        self.problem = "" if response.ok else f"answered {response.status_code} {response.reason}"
        if response.is_redirect:
            self.problem = f"answered {response.status_code} {response.reason}"
            raise requests.TooManyRedirects(self.problem)
        return response


def _cause(error: BaseException) -> str:
    """Describe the innermost error, which the HTTP library wraps in several of its own."""
    reason: Any = error
    while isinstance(
        inner := getattr(reason, "reason", None) or reason.__cause__ or next(iter(reason.args), None), BaseException
    ):
        reason = inner
    return getattr(reason, "strerror", None) or type(reason).__name__


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep the exporters' own log lines off the terminal and out of captured logs: we report a failure in one line."""
    logger, handler = logging.getLogger("opentelemetry.exporter.otlp"), logging.NullHandler()
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.propagate = propagates
        logger.removeHandler(handler)
