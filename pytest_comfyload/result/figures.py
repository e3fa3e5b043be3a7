"""The figures of a load result as built-ins: what travels, is shown, and is kept."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from pytest_comfyload.metrics.distribution import Distribution
from pytest_comfyload.metrics.metric import Metric
from pytest_comfyload.result.gpu_usage import GpuUsage
from pytest_comfyload.result.measurements import Measurements
from pytest_comfyload.result.telemetry import ServerUsage

__all__ = ["PARTS", "figures_of", "gpu_figures"]

# A summary tells of these parts of a run, where there are several.
PARTS = ("group", "server", "worker")

_TIMES = (
    "send_lag", "generator_lag", "submit_time", "queue_time", "generation_time", "delivery_time", "fetch_time",
    "total_time", "model_load_time", "sampling_time", "decode_time", "save_time",
)  # fmt: skip


def figures_of(load: Measurements, parts: Mapping[str, Mapping[Hashable, Measurements]]) -> dict[str, Any]:
    """Return the figures of a run; `parts` are those of it by the keys `PARTS`.

    Times are dicts of n, failed, mean, min, max and percentiles; what has no samples is left out.
    """
    facts = load.facts
    times = {name: _figures(getattr(load, name)) for name in _TIMES}
    return {
        "run_id": facts.run_id,
        "title": facts.title,
        "repetition": facts.repetition,
        "scenario": facts.scenario,
        "workflow": facts.workflow,
        "servers": list(facts.servers),
        "seed": facts.seed,
        "simulated": load.simulated,
        "state": load.state,
        "invalid_because": load.invalid_because,
        "window": load.window,
        "prompts": len(load.outcomes),
        "intended": load.accounting.intended,
        "submitted": load.accounting.submitted,
        "dropped": load.accounting.dropped,
        "contended": int(load.contended),
        "cached": int(load.cached),
        "allow_cached": facts.allow_cached,
        "errors": _errors(load),
        "success_rate": float(load.success_rate) if load.outcomes else None,
        "throughput": float(load.throughput) if load.outcomes else None,
        "prompt_throughput": float(load.prompt_throughput) if load.outcomes else None,
        "delivers": load.delivers,
        "blank_outputs": int(load.blank_outputs),
        "loop_lag": facts.loop_lag,
        "worst_loop_lag": facts.worst_loop_lag,
        "stalled": int(load.stalled),
        "void": int(load.void),
        "by_group": _parts(parts["group"]),
        "by_server": _parts(parts["server"]),
        "by_worker": _parts(parts["worker"]),
        "cached_classes": dict(load.cached_classes),
        "always_ran": list(load.always_ran),
        "executions": load.executions,
        "silent_ooms": facts.silent_ooms,
        "server": _memory(load.server),
        "node_time": {name: _node(times) for name, times in load.node_time.items()},
        "steps_per_second": {name: _node(rates) for name, rates in load.steps_per_second.items()},
        "gpu": gpu_figures(load.gpu),
        "gpu_sources": list(facts.gpu_sources),
        "notes": list(facts.notes),
        **{name: figures for name, figures in times.items() if figures},
    }


def _errors(load: Measurements) -> dict[str, int]:
    return {str(status): n for status, n in load.accounting.by_status.items() if status != "success"}


def _parts(parts: Mapping[Hashable, Measurements]) -> dict[str, dict[str, Any]]:
    """What a summary says of each part of the run; nothing where there is but one."""
    return {str(value): _summary(part) for value, part in parts.items()} if len(parts) > 1 else {}


def _summary(part: Measurements) -> dict[str, Any]:
    times = {name: _figures(getattr(part, name)) for name in ("queue_time", "generation_time", "total_time")}
    return {
        "prompts": len(part.outcomes),
        "errors": _errors(part),
        **{name: figures for name, figures in times.items() if figures},
    }


def _figures(times: Distribution) -> dict[str, float | int]:
    if not times.n:
        return {}
    over_successes = {name: float(getattr(times, name)) for name in ("mean", "min", "max") if times.values}
    percentiles = {name: float(getattr(times, name)) for name in ("p50", "p90", "p95", "p99")}
    return {"n": times.n, "failed": times.failed, **over_successes, **percentiles, "p50_error": times.median_error}


def _node(times: Distribution) -> dict[str, float | int]:
    figures = {name: float(getattr(times, name)) for name in ("mean", "p50", "p90", "p95", "p99")}
    return {"n": times.n, "p50_error": times.median_error, **figures}


def _memory(server: ServerUsage) -> dict[str, dict[str, float]]:
    """Peaks and means in bytes; empty without samples."""
    if not server.samples:
        return {}
    usages = {"ram_used": server.ram_used, "vram_used": server.vram_used}
    return {name: {"max": float(usage.max), "mean": float(usage.mean)} for name, usage in usages.items()}


def gpu_figures(usage: GpuUsage) -> dict[str, Any]:
    """Of all GPUs, and where there are several, under `devices` of each; empty without samples."""
    devices = usage.devices if len(usage.devices) > 1 else {}
    each = {gpu: _usage_figures(device) for gpu, device in devices.items()}
    return _usage_figures(usage) | ({"devices": each} if each else {})


def _usage_figures(usage: GpuUsage) -> dict[str, Any]:
    utilization, vram, memory = usage.utilization, usage.vram, usage.memory_used
    temperature, power, clock = usage.temperature, usage.power, usage.clock
    energy, throttled = usage.energy, usage.throttled
    figures: dict[str, dict[str, Any]] = {
        "utilization": _known(
            mean=utilization.mean, p95=utilization.p95, max=utilization.max, busy_mean=utilization.busy_mean
        ),
        "vram": _known(peak=vram.peak, mean=vram.mean),
        "memory_used": _known(peak=memory.peak, mean=memory.mean),
        "temperature": _known(max=temperature.max, mean=temperature.mean),
        "power": _known(mean=power.mean, max=power.max),
        "energy": _known(joules=energy, per_image=usage.energy_per_image),
        "clock": _known(mean=clock.mean, min=clock.min),
        "throttled": _known(percent=throttled),
    }
    if figures["energy"]:
        figures["energy"]["source"] = energy.source
    if throttled.n and throttled.reasons:
        figures["throttled"]["reasons"] = {reason: float(share) for reason, share in throttled.reasons.items()}
    return {name: values for name, values in figures.items() if values}


def _known(**metrics: Metric) -> dict[str, Any]:
    return {name: float(metric) for name, metric in metrics.items() if metric.n}
