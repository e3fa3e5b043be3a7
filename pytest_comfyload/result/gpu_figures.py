"""The figures of the GPUs as built-ins; what no source told is left out."""

from __future__ import annotations

from typing import Any

from pytest_comfyload.metrics.metric import Metric
from pytest_comfyload.result.gpu_usage import GpuUsage

__all__ = ["gpu_figures"]


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
