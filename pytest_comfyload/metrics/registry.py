"""Every metric of a load, declared once: tables, gates, SLOs, charts and exports derive from this registry.

To add a metric, declare it here, and add an attribute of the same name where it is measured.
"""

from __future__ import annotations

from pytest_comfyload.metrics.spec import MetricSpec, Panel, Scale

__all__ = ["GATE", "METRICS", "unit_of", "with_panel"]

# A median varies less from run to run than any other statistic, so it decides unless the scenario says otherwise.
GATE = "generation_time.p50"

_TIMES = ("p50", "p90", "p95", "p99", "mean")
_RATIO, _RATE = Scale(), Scale(higher_is_better=True)
# For times that can be 0, differences below a tenth of a second do not count.
_WAIT = Scale(floor=0.1)


def _time(name: str, title: str, help: str, *, scale: Scale | None = _RATIO, **more: object) -> MetricSpec:
    return MetricSpec(name=name, title=title, unit="s", help=help, stats=_TIMES, scale=scale, **more)  # type: ignore[arg-type]


def _count(name: str, title: str, help: str, *, key: str = "") -> MetricSpec:
    return MetricSpec(name=name, title=title, unit="", help=help, key=key)


def _gpu(name: str, title: str, unit: str, help: str, **more: object) -> MetricSpec:
    return MetricSpec(name=f"gpu.{name}", title=title, unit=unit, help=help, needs="gpu", **more)  # type: ignore[arg-type]


_DECLARED = (
    MetricSpec(
        name="success_rate", title="Success rate", unit="%", scale=Scale(floor=1.0, higher_is_better=True),
        explains=("",), help="Share of the prompts in the window that succeeded.",
    ),
    MetricSpec(
        name="throughput", title="Throughput", unit="outputs/min", scale=_RATE, explains=("",),
        help="Files delivered by prompts that ended in the window; `.unit` is images/min if all are pictures.",
        panel=Panel(
            id="throughput", order=40, stats=("",),
            caption="Images, or other outputs of the workflow, of prompts that ended in the measured window.",
        ),
    ),
    MetricSpec(
        name="prompt_throughput", title="Prompt throughput", unit="prompts/min", scale=_RATE,
        help="Prompts that succeeded and ended in the window.",
    ),
    _count("oom_errors", "Out of memory", "Prompts that failed because the server ran out of memory, on any backend.",
           key="errors.oom"),
    _count("timeouts", "Timeouts", "Prompts that executed or waited for longer than the scenario allows.",
           key="errors.timeout"),
    _count("silent_ooms", "Silent out of memory",
           "Retries after running out of memory, which only the servers' logs show."),
    _count("cached", "From the cache", "Prompts whose work came from the server's cache; their times do not count."),
    _count("contended", "Contended", "Prompts that shared the queue with foreign prompts."),
    _count("stalled", "Stalled", "Prompts during which the generator stalled."),
    _count("void", "Void", "Prompts whose server-side times are unknown: the server's timestamps cannot be right."),
    _count("blank_outputs", "Blank outputs", "Pictures in which every channel is constant."),
    _time("send_lag", "Send lag", "From when a prompt was due to when it was sent.", scale=None),
    _time(
        "generator_lag", "Generator lag", scale=None,
        help="The most that the load generator itself may have added to total_time; wall-clock seconds.",
    ),
    _time("submit_time", "Submit time", "From sending a prompt to its acceptance by the server.", scale=_WAIT),
    _time(
        "queue_time", "Queue wait", "From acceptance to the start of execution; infinite if never started.",
        scale=_WAIT, needs="timeline", explains=("p50",), terminal="queue", slo=True,
        panel=Panel(
            id="queue", order=30, stats=("p50", "p95"), band=True, caption="From acceptance to the start of execution."
        ),
    ),
    _time(
        "generation_time", "Generation time", "From the start to the end of execution on the server.", needs="timeline",
        explains=("p95",), terminal="generation", slo=True, mirrored=True,
        panel=Panel(
            id="generation", order=10, stats=("p50", "p95", "p99"), band=True,
            caption="On the GPU, queue wait excluded.",
        ),
    ),
    _time(
        "delivery_time", "Delivery time", "From the end of execution until the client learns of it.", scale=_WAIT,
        needs="timeline",
    ),
    _time("fetch_time", "Fetch time", "Download of a prompt's outputs.", scale=_WAIT),
    _time(
        "total_time", "Total time", "From when a prompt was due until its outputs are complete; infinite for failures.",
        explains=("p50", "p95"), terminal="total", slo=True, mirrored=True,
        panel=Panel(
            id="total", order=20, stats=("p50", "p95", "p99"), band=True,
            caption="From the intended start until the outputs are complete; failures count as ∞.",
        ),
    ),
    _time(
        "model_load_time", "Model loading", "Nodes that load models, within the generation.", needs="nodes",
        scale=_WAIT, explains=("mean",),
    ),
    _time("sampling_time", "Sampling", "Nodes that sample, within the generation.", needs="nodes"),
    _time("decode_time", "Decoding", "Nodes that decode latents, within the generation.", needs="nodes"),
    _time("save_time", "Saving", "Nodes that save outputs, within the generation.", needs="nodes"),
    _time("node_time", "Node time", "Execution of one node, by node class.", needs="nodes", by_class=True),
    MetricSpec(
        name="cold_start", title="Cold start", unit="s", stats=("max", "mean"), scale=_RATIO, needs="server",
        help="From the start of a launched server's process to its first executed prompt; wall-clock seconds.",
    ),
    MetricSpec(
        name="steps_per_second", title="Sampling rate", unit="it/s", stats=_TIMES, scale=_RATE, needs="nodes",
        by_class=True, help="Sampling steps per second, by node class.",
    ),
    MetricSpec(
        name="server.ram_used", title="RAM (reported by the server)", unit="B", stats=("max", "mean"), needs="server",
        help="RAM in use on the server's machine, as /system_stats reports it.",
    ),
    MetricSpec(
        name="server.vram_used", title="VRAM (reported by the server)", unit="B", stats=("max", "mean"), needs="server",
        help="VRAM in use on the server's devices, as /system_stats reports it.",
        panel=Panel(
            id="memory", order=70, stats=("max",), title="VRAM peak (reported by the server)",
            caption="As ComfyUI reports it.",
        ),
    ),
    _gpu(
        "utilization", "GPU utilisation", "%", "Share of the time in which a kernel was running.",
        stats=("mean", "p95", "max", "busy_mean"), scale=Scale(floor=2.0), gates=("mean", "busy_mean"),
        explains=("mean",),
        panel=Panel(
            id="utilization", order=50, stats=("mean",), zone=(80, 95),
            caption="Mean over the window; the band from 80 to 95 % is a statement about sizing.",
        ),
    ),
    _gpu(
        "vram", "VRAM", "%", "Share of the card's memory in use.", stats=("peak", "mean"), scale=Scale(floor=1.0),
        explains=("peak",),
        panel=Panel(
            id="vram", order=60, stats=("peak",), title="VRAM peak",
            caption="Of the card, including torch’s cache and other processes.",
        ),
    ),
    _gpu("memory_used", "VRAM used", "B", "Memory in use.", stats=("peak", "mean"), scale=_RATIO, gates=("peak",)),
    _gpu("temperature", "Temperature", "°C", "Temperature of the GPU.", stats=("max", "mean"),
         scale=Scale(floor=2.0), gates=("max",)),
    _gpu("power", "Power", "W", "Power of one GPU.", stats=("mean", "max"), scale=_RATIO, gates=("mean",)),
    _gpu("energy", "Energy", "J", "Energy of all GPUs over the window.", key="gpu.energy.joules"),
    _gpu(
        "energy_per_image", "Energy per image", "J/image", "Energy of all GPUs, including idle ones, per output.",
        key="gpu.energy.per_image", scale=_RATIO, explains=("",),
    ),
    _gpu("clock", "Clock", "MHz", "Clock of the multiprocessors.", stats=("mean", "min")),
    _gpu("throttled", "Throttled", "%", "Share of the time in which the clocks were throttled.",
         key="gpu.throttled.percent", scale=Scale(floor=1.0), explains=("",)),
)  # fmt: skip

METRICS: dict[str, MetricSpec] = {spec.name: spec for spec in _DECLARED}


def with_panel() -> list[MetricSpec]:
    """Return the metrics that have a chart in the trend, in the order of the charts."""
    shown = [spec for spec in METRICS.values() if spec.panel is not None]
    return sorted(shown, key=lambda spec: spec.panel.order if spec.panel else 0)


def unit_of(figure: str) -> str:
    """Return the unit of a figure by its name or key, such as "total_time.p95"; "" if it is unknown."""
    for spec in METRICS.values():
        if figure in (name for pair in spec.figures() for name in pair):
            return spec.unit
    return ""
