"""Series of the exporter, each declared once: name, kind, help, labels, and how it is read from a record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pytest_comfyload.metrics.registry import METRICS
from pytest_comfyload.monitor.server_record import Histogram, ServerRecord
from pytest_comfyload.result.telemetry import GpuSample

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

__all__ = ["SERIES", "ExportedSeries", "families"]

# Values of the labels other than `server`, and the value; a point with the value None is left out.
Points: TypeAlias = Iterable[tuple[tuple[str, ...], Any]]


@dataclass(frozen=True, slots=True)
class ExportedSeries:
    """A series; `name` is without the suffixes that Prometheus adds to a kind (`_total`, `_bucket`, `_info`)."""

    name: str
    kind: Literal["gauge", "counter", "histogram", "info"]
    help: str
    of: Callable[[ServerRecord], Points]
    labels: tuple[str, ...] = ()


def _plain(read: Callable[[ServerRecord], object]) -> Callable[[ServerRecord], Points]:
    return lambda record: [((), read(record))]


def _gpus(read: Callable[[GpuSample], float | None]) -> Callable[[ServerRecord], Points]:
    """Return a reader of one point per GPU; GPUs are numbered in the order in which their source lists them."""

    def points(record: ServerRecord) -> Iterator[tuple[tuple[str, ...], float | None]]:
        order = {facts.gpu: number for number, facts in enumerate(record.gpus)}
        for gpu, sample in sorted(record.gpu_samples.items(), key=lambda each: order.get(each[0], len(order))):
            yield (str(order.get(gpu, len(order))), gpu), read(sample)

    return points


def _vram(record: ServerRecord) -> Points:
    yield ("comfyui",), record.vram_used
    used = [each.memory_used for each in record.gpu_samples.values()]
    yield ("gpu",), None if not used or None in used else sum(each for each in used if each is not None)


def _info(record: ServerRecord) -> Points:
    if record.version:
        words = {"version": record.version, "device": record.device, "simulated": str(record.simulated).lower()}
        yield (), words


def _mebibytes(sample: GpuSample) -> float | None:
    return None if sample.memory_used is None else sample.memory_used / 2**20


_GPU = ("gpu", "uuid")

SERIES = (
    ExportedSeries("comfyui_up", "gauge", "1 while the server answers.", _plain(lambda each: each.up)),
    ExportedSeries(
        "comfyui_queue_size", "gauge", "Prompts that wait, without the running one.",
        _plain(lambda each: each.waiting),
    ),
    ExportedSeries("comfyui_prompts_waiting", "gauge", "Prompts that wait.", _plain(lambda each: each.waiting)),
    ExportedSeries("comfyui_prompts_running", "gauge", "Prompts that are executed.", _plain(lambda each: each.running)),
    ExportedSeries(
        "comfyui_generations", "counter", "Prompts that were executed, by how they ended.",
        lambda record: [((status,), count) for status, count in record.generations.items()], ("status",),
    ),
    ExportedSeries(
        "comfyui_generation_seconds", "histogram",
        "Execution time of successful prompts, excluding those entirely from the cache; coarse buckets.",
        _plain(lambda each: each.generation),
    ),
    ExportedSeries(
        "comfyui_prompt_seconds", "histogram",
        "Execution time of successful prompts, excluding those entirely from the cache; fine buckets.",
        _plain(lambda each: each.prompt),
    ),
    ExportedSeries(
        "comfyui_queue_wait_seconds", "histogram",
        "From the acceptance of a prompt to the start of its execution; ComfyUI 0.3.69 and newer.",
        _plain(lambda each: each.queue_wait),
    ),
    ExportedSeries("comfyui_images", "counter", "Pictures of successful prompts.", _plain(lambda each: each.images)),
    ExportedSeries(
        "comfyui_cached_prompts", "counter", "Successful prompts that came entirely from the cache.",
        _plain(lambda each: each.cached),
    ),
    ExportedSeries(
        "comfyui_sampling_steps", "counter", "Sampling steps that executed nodes of successful prompts asked for.",
        _plain(lambda each: each.steps),
    ),
    ExportedSeries(
        "comfyui_server_restarts", "counter",
        "Restarts detected: the server was gone, and its history started again.",
        _plain(lambda each: each.restarts),
    ),
    ExportedSeries(
        "comfyui_history_gaps", "counter",
        "Times when prompts may have ended uncounted: history cleared, or more ends between two polls than it keeps.",
        _plain(lambda each: each.gaps),
    ),
    ExportedSeries("comfyui_scrape_failures", "counter", "Polls that failed.", _plain(lambda each: each.failures)),
    ExportedSeries(
        "comfyui_scrape_seconds", "gauge", "Duration of the last poll.",
        _plain(lambda each: each.look_seconds),
    ),
    ExportedSeries(
        "comfyui_worker_dead", "gauge", "1 while prompts wait and none is executed.",
        _plain(lambda each: each.worker_dead),
    ),
    ExportedSeries(
        "comfyui_ram_used_bytes", "gauge", "Memory in use of the server's machine.", _plain(lambda each: each.ram_used),
    ),
    ExportedSeries(
        "comfyui_vram_used_bytes", "gauge", "GPU memory in use, as reported by ComfyUI and by the GPUs.", _vram,
        ("source",),
    ),
    ExportedSeries(
        "comfyui_vram_total_bytes", "gauge", "GPU memory, as reported by ComfyUI.",
        _plain(lambda each: each.vram_total),
    ),
    ExportedSeries(
        "comfyui_gpu_utilization_percent", "gauge", "Part of the time in which a kernel ran.",
        _gpus(lambda sample: sample.utilization), _GPU,
    ),
    ExportedSeries("comfyui_gpu_memory_used_mb", "gauge", "GPU memory in use, in MiB.", _gpus(_mebibytes), _GPU),
    ExportedSeries(
        "comfyui_gpu_memory_used_bytes", "gauge", "GPU memory in use.", _gpus(lambda sample: sample.memory_used), _GPU
    ),
    ExportedSeries(
        "comfyui_gpu_memory_total_bytes", "gauge", "GPU memory.", _gpus(lambda sample: sample.memory_total), _GPU
    ),
    ExportedSeries(
        "comfyui_gpu_temperature_celsius", "gauge", "Temperature of the GPU.", _gpus(lambda sample: sample.temperature),
        _GPU,
    ),
    ExportedSeries(
        "comfyui_gpu_power_watts", "gauge", "Power draw of the GPU.", _gpus(lambda sample: sample.power), _GPU,
    ),
    ExportedSeries(
        "comfyui_gpu_energy_joules", "counter", "Energy that the GPU has used, by its own counter.",
        _gpus(lambda sample: sample.energy), _GPU,
    ),
    ExportedSeries(
        "comfyui_gpu_throttled", "gauge", "1 while the clocks are throttled because of power or temperature.",
        _gpus(lambda sample: sample.throttled()), _GPU,
    ),
    ExportedSeries(
        "comfyui_probe_success", "gauge", "1 where the last probe succeeded.", _plain(lambda each: each.probe.succeeded)
    ),
    ExportedSeries(
        "comfyui_probe_timestamp_seconds", "gauge", "When the last probe ended, since 1970.",
        _plain(lambda each: each.probe.at),
    ),
    ExportedSeries(
        "comfyui_probe_seconds", "gauge", "Times of the last probe, by phase.",
        lambda record: [((phase,), seconds) for phase, seconds in record.probe.phases.items()], ("phase",),
    ),
    ExportedSeries(
        "comfyui_probe_node_seconds", "gauge", "Times of the last probe, by node class.",
        lambda record: [((name,), seconds) for name, seconds in record.probe.nodes.items()], ("class",),
    ),
    ExportedSeries(
        "comfyui_probe_failures", "counter", "Probes that failed.", _plain(lambda each: each.probe.failures)
    ),
    ExportedSeries(
        "comfyui_events_connected", "gauge", "1 while the WebSocket of --events is open.",
        _plain(lambda each: each.events),
    ),
    ExportedSeries(
        "comfyui_prompts_accepted", "counter", "Prompts that were accepted, while the WebSocket of --events was open.",
        _plain(lambda each: None if each.events is None else each.accepted),
    ),
    ExportedSeries(
        "comfyui_prompts_deleted", "counter",
        "Prompts that left the queue without having been executed, while the WebSocket of --events was open.",
        _plain(lambda each: None if each.events is None else each.deleted),
    ),
    ExportedSeries(
        "comfyui_log_readable", "gauge", "1 while --logs can read the server's log.",
        _plain(lambda each: each.reads_log),
    ),
    ExportedSeries(
        "comfyui_sampling_steps_per_second", "gauge",
        "Pace of the last progress bar in the server's log; absent 15 seconds after it.",
        _plain(lambda each: each.steps_per_second),
    ),
    ExportedSeries(
        "comfyui_model_loads", "counter", "Loads of models, as the server's log reports them.",
        _plain(lambda each: None if each.reads_log is None else each.model_loads),
    ),
    ExportedSeries(
        "comfyui_silent_ooms", "counter", METRICS["silent_ooms"].help,
        _plain(lambda each: None if each.reads_log is None else each.silent_ooms),
    ),
    ExportedSeries("comfyui", "info", "The server.", _info),
)  # fmt: skip


def families(records: Iterable[ServerRecord]) -> Iterator[Metric]:
    """Yield each series with the points of all servers."""
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        InfoMetricFamily,
    )

    kinds: dict[str, Any] = {
        "gauge": GaugeMetricFamily,
        "counter": CounterMetricFamily,
        "histogram": HistogramMetricFamily,
        "info": InfoMetricFamily,
    }
    known = tuple(records)
    for series in SERIES:
        family = kinds[series.kind](series.name, series.help, labels=("server", *series.labels))
        for record in known:
            for labels, value in series.of(record):
                if value is not None:
                    _add(family, (record.server, *labels), value)
        yield family


def _add(family: Any, labels: tuple[str, ...], value: object) -> None:
    if isinstance(value, Histogram):
        family.add_metric(labels, buckets=value.cumulative(), sum_value=value.sum)
    else:
        family.add_metric(labels, value)
