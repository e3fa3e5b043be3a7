"""`--comfyload-otlp`: a collector receives what the session sent, once; a collector that fails is one line."""

from __future__ import annotations

import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from pytest_comfyload.history.record import Record
from pytest_comfyload.history.store import Store
from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.metrics.registry import METRICS
from pytest_comfyload.result.outcome import PHASES
from tests.plugin.post_receiver import PostReceiver, receiving
from tests.plugin.suite import Suite

TESTS = """
from pytest_comfyload import load_scenario

@load_scenario(
    "txt2img", users=2, iterations=3, inputs={"CLIPTextEncode[*].text": "a S3CRET-PROMPT"}, max_send_lag="60s"
)
def test_one(load):
    assert load.success_rate == 100

@load_scenario("txt2img", users=1, iterations=2, max_send_lag="60s")
def test_other(load):
    assert load.success_rate == 100

@load_scenario("txt2img", users=1, iterations=2, max_send_lag="60s")
def test_same(load):
    assert load.success_rate == 100
"""


class Collector(PostReceiver):
    def spans(self) -> list[tuple[dict[str, Any], Any]]:
        """Return each span with the attributes of its resource."""
        requests = [
            ExportTraceServiceRequest.FromString(body) for path, _, body in self.got if path.endswith("/v1/traces")
        ]
        return [
            (attributes(resource.resource), span)
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def metrics(self) -> list[Any]:
        requests = [
            ExportMetricsServiceRequest.FromString(body) for path, _, body in self.got if path.endswith("/v1/metrics")
        ]
        return [
            metric
            for request in requests
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]


def attributes(of: Any) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        kind = value.WhichOneof("value")
        return [plain(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)

    return {each.key: plain(each.value) for each in of.attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with receiving(Collector()) as server:
        yield server


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Suite:
    monkeypatch.delenv("COMFYUI_URL", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    suite = Suite(pytester)
    suite.write("test_it.py", TESTS)
    return suite


def kept_runs(folder: Path) -> list[Record]:
    store = Store.open(str(folder / ".comfyload"))
    return list(store.records(store.runs()))


def nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def expect_equal(collector: Collector, records: list[Record]) -> None:
    """Check that each prompt that was sent is one trace, with the phases it reached and their times."""
    sent = {outcome.prompt_id: (record, outcome) for record in records for outcome in record.outcomes}
    spans = collector.spans()
    roots = [span for _, span in spans if not span.parent_span_id]
    assert sorted(attributes(root)["comfyload.prompt_id"] for root in roots) == sorted(sent)
    statuses = Counter(attributes(root)["comfyload.status"] for root in roots)
    assert statuses == Counter(str(outcome.status) for _, outcome in sent.values())
    for root in roots:
        about = attributes(root)
        record, outcome = sent[about["comfyload.prompt_id"]]
        epoch = nanoseconds(record.facts.epoch)
        assert root.trace_id.hex() == outcome.prompt_id.replace("-", "")
        assert (root.status.code == 2) == (not outcome.succeeded)
        assert about["comfyload.run_id"] == record.run_id
        assert about["comfyload.simulated"] is True
        assert root.start_time_unix_nano == epoch + nanoseconds(outcome.intended)
        phases = {
            span.name: span
            for _, span in spans
            if span.parent_span_id == root.span_id and span.trace_id == root.trace_id
        }
        assert {f"{name}_time" for name in phases if name in PHASE_NAMES} == set(outcome.phases()) - {"send_lag"}
        line = outcome.timeline
        assert line is not None
        expected = {"queue": (line.accepted, line.started), "generation": (line.started, line.ended),
                    "fetch": (line.delivered, line.fetched)}  # fmt: skip
        for name, (begin, end) in expected.items():
            if begin is None or end is None:
                assert name not in phases
                continue
            times = phases[name].start_time_unix_nano - epoch, phases[name].end_time_unix_nano - epoch
            assert times == (nanoseconds(begin), nanoseconds(end))
        nodes = [
            span for _, span in spans if attributes(span).get("comfyload.node_id") and span.trace_id == root.trace_id
        ]
        assert sorted((span.name, span.end_time_unix_nano - epoch) for span in nodes) == sorted(
            (node.class_type, nanoseconds(node.end)) for node in outcome.nodes
        )


PHASE_NAMES = {phase.removesuffix("_time") for phase in PHASES} - {"send_lag"}


@pytest.mark.parametrize("arguments", [(), ("-n2",)], ids=["plain", "xdist"])
def test_each_prompt_is_a_trace_and_each_figure_a_metric(
    suite: Suite, collector: Collector, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key=s3cr3t%20word,tenant=mine")
    result = suite.run(f"--comfyload-otlp={collector.url}", "--comfyload-label=night", *arguments)
    result.assert_outcomes(passed=3)
    records = kept_runs(suite.folder)
    assert len(records) == 3
    expect_equal(collector, records)
    prompts = sum(len(record.outcomes) for record in records)
    result.stdout.fnmatch_lines([f"--comfyload-otlp: {prompts} prompts of 3 runs exported to 127.0.0.1:*"])
    assert all(headers.get("x-api-key") == "s3cr3t word" for _, headers, _ in collector.got)
    everything = b"".join(body for _, _, body in collector.got)
    assert b"S3CRET-PROMPT" not in everything
    assert b"s3cr3t" not in everything
    resources = {about["comfyload.test"]: about for about, _ in collector.spans()}
    assert set(resources) == {"test_it.py::test_one", "test_it.py::test_other", "test_it.py::test_same"}
    assert {about["comfyload.label"] for about in resources.values()} == {"night"}
    expect_figures(collector, records)


def expect_figures(collector: Collector, records: list[Record]) -> None:
    """Check that every metric with samples is exported with its unit and the value from the run's summary."""
    by_name = {metric.name: metric for metric in collector.metrics()}
    assert {"comfyload.total_time", "comfyload.gpu.utilization", "comfyload.steps_per_second"} <= set(by_name)
    assert {name.removeprefix("comfyload.") for name in by_name} - {"prompts"} <= set(METRICS)
    units = {"total_time": "s", "gpu.memory_used": "By", "throughput": "{outputs}/min", "oom_errors": "1"}
    assert {name: by_name[f"comfyload.{name}"].unit for name in units} == units
    values = {
        (attributes(point)["test"], attributes(point).get("stat")): (point.as_double, point.time_unix_nano)
        for metric in collector.metrics()
        if metric.name == "comfyload.generation_time"
        for point in metric.gauge.data_points
    }
    for record in records:
        value, when = values[record.facts.title, "p95"]
        assert value == pytest.approx(record.figures["generation_time"]["p95"])
        assert when == nanoseconds(record.facts.epoch) + nanoseconds(record.facts.window[1])


def test_failed_prompts_are_errors_with_the_phases_that_they_reached(suite: Suite, collector: Collector) -> None:
    suite.write("test_it.py", FAILING)
    faults = {"oom": 0.25, "node-error": 0.25, "interrupt": 0.25}
    with SimulatorProcess(time_scale=20, faults=faults, seed=1) as simulator:
        suite.run(f"--comfyload-otlp={collector.url}", f"--comfyui-url={simulator.url}").assert_outcomes(passed=1)
    records = kept_runs(suite.folder)
    expect_equal(collector, records)
    (record,) = records
    assert len({outcome.status for outcome in record.outcomes}) == 4
    messages = {
        attributes(span)["comfyload.status"]: span.status.message
        for _, span in collector.spans()
        if not span.parent_span_id
    }
    assert "memory" in messages["oom"]


FAILING = """
@load_scenario("txt2img", users=2, iterations=20, warmup=0, max_send_lag="60s", inputs={"EmptyLatentImage.width": 64})
def test_failing(load):
    assert load.success_rate < 100
"""


def test_without_a_store_and_below_the_path_of_a_signal(suite: Suite, collector: Collector) -> None:
    url = f"{collector.url}/otel/v1/traces"
    suite.run(f"--comfyload-otlp={url}", "--comfyload-store=none", "-k", "one").assert_outcomes(passed=1, deselected=2)
    assert {path for path, *_ in collector.got} == {"/otel/v1/traces", "/otel/v1/metrics"}
    # A second session exports its own runs, not those whose spools are still there.
    collector.got.clear()
    suite.run(f"--comfyload-otlp={url}", "--comfyload-store=none", "-k", "other").assert_outcomes(
        passed=1, deselected=2
    )
    assert {about["comfyload.test"] for about, _ in collector.spans()} == {"test_it.py::test_other"}


@pytest.mark.parametrize(
    ("status", "said"), [(500, "answered 500 *"), (302, "answered 302 *"), (429, "answered 429 *")]
)
def test_a_refusal_is_one_line(
    suite: Suite, collector: Collector, monkeypatch: pytest.MonkeyPatch, status: int, said: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")
    collector.status = status
    result = suite.run(f"--comfyload-otlp={collector.url}", "-k", "other", "-W", "error")
    result.assert_outcomes(passed=1, deselected=2)
    assert result.ret == 0
    result.stdout.fnmatch_lines([f"--comfyload-otlp: 127.0.0.1:{collector.server_port} {said}; 0 prompts exported, *"])
    assert {path for path, *_ in collector.got} == {"/v1/traces"}
    assert "opentelemetry" not in result.stderr.str()
    assert len(kept_runs(suite.folder)) == 1


def test_a_collector_that_is_not_there_is_one_line(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")
    result = suite.run("--comfyload-otlp=http://127.0.0.1:1", "-k", "other")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["--comfyload-otlp: 127.0.0.1:1 was not reached (Connection refused); 0 prompts *"])


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n" + b"X-More: and more\r\n" * 10])
def test_a_hanging_collector_is_given_up(suite: Suite, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    """One collector never answers, the other never finishes its headers, so that no read timeout applies."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60" if answer else "0.5")
    suite.pytester.makeconftest("import pytest_comfyload.plugin.otlp\npytest_comfyload.plugin.otlp.SILENCE = 2")
    connections = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connections.append(connection)
                connection.sendall(answer)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        result = suite.run(f"--comfyload-otlp=http://127.0.0.1:{listener.getsockname()[1]}", "-k", "other")
        listener.shutdown(socket.SHUT_RDWR)
    for connection in connections:
        connection.close()
    assert result.ret == 0
    said = "did not take everything within 2 s" if answer else "did not answer in time"
    result.stdout.fnmatch_lines([f"--comfyload-otlp: 127.0.0.1:* {said}; 0 prompts exported, the others not"])
    assert len(kept_runs(suite.folder)) == 1


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://x", "*not a server URL: 'ftp://x'*"),
        ("http://me:hunter2222@x:4318", "*no credentials in the URL; give OTEL_EXPORTER_OTLP_HEADERS*"),
        ("http://x:4318?token=hunter2222", "*no credentials in the URL; give OTEL_EXPORTER_OTLP_HEADERS*"),
    ],
)
def test_a_bad_url_is_refused_at_the_start(suite: Suite, url: str, said: str) -> None:
    result = suite.run(f"--comfyload-otlp={url}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([said])
    assert "hunter2222" not in result.stderr.str() + result.stdout.str()


def test_a_missing_extra_is_one_line_with_the_command(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    # Other tests in this process may have loaded parts of it.
    loaded = [name for name in sys.modules if name.startswith("opentelemetry.")]
    for name in ("opentelemetry", "opentelemetry.exporter", "opentelemetry.exporter.otlp", *loaded):
        monkeypatch.setitem(sys.modules, name, None)
    result = suite.run_here("--comfyload-otlp=http://127.0.0.1:4318")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*needs the OpenTelemetry SDK: pip install 'pytest-comfyload[[]otlp[]]'*"])


def test_the_sdk_is_loaded_by_an_export_only(suite: Suite, collector: Collector) -> None:
    loaded = (
        "print('loaded:', sorted(name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'requests'))))"
    )
    suite.pytester.makeconftest(f"import sys\n\ndef pytest_unconfigure(config):\n    {loaded}")
    suite.write("test_it.py", "def test_nothing(): pass")
    result = suite.run(f"--comfyload-otlp={collector.url}")
    result.assert_outcomes(passed=1)
    assert "loaded: []" in result.outlines
    assert collector.got == []


def test_an_sdk_that_is_disabled_exports_nothing(
    suite: Suite, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    result = suite.run(f"--comfyload-otlp={collector.url}", "-k", "other")
    result.stdout.fnmatch_lines(["--comfyload-otlp: nothing is exported, since OTEL_SDK_DISABLED is set"])
    assert collector.got == []
