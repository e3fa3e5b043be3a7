"""The figures of a load as built-in types, for JSON, storage and transport; derived from the metric registry."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from pytest_comfyload.metrics.distribution import Distribution
from pytest_comfyload.metrics.metric import Count
from pytest_comfyload.metrics.registry import METRICS
from pytest_comfyload.result.extensions import CUSTOM_METRICS, panels_of
from pytest_comfyload.result.gpu_usage import GpuUsage
from pytest_comfyload.result.measurements import Measurements

__all__ = ["PARTS", "figures_of", "gpu_figures"]

# The keys by which a summary splits a run, if a key has several values.
PARTS = ("group", "server", "worker")


def figures_of(load: Measurements, parts: Mapping[str, Mapping[Hashable, Measurements]]) -> dict[str, Any]:
    """Return the figures of a run; `parts` are its parts by those keys in `PARTS` that have several values.

    Times are dicts of n, failed, mean, min, max and percentiles; metrics without samples are left out.
    """
    facts = load.facts
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
        "allow_cached": facts.allow_cached,
        "errors": _errors(load),
        "delivers": load.delivers,
        "loop_lag": facts.loop_lag,
        "worst_loop_lag": facts.worst_loop_lag,
        "by_group": _parts(parts.get("group", {})),
        "by_server": _parts(parts.get("server", {})),
        "by_worker": _parts(parts.get("worker", {})),
        "cached_classes": dict(load.cached_classes),
        "always_ran": list(load.always_ran),
        "executions": load.executions,
        "gpu_sources": list(facts.gpu_sources),
        "notes": list(facts.notes),
        **_metrics(load),
        **({"panels": panels} if (panels := panels_of(load)) else {}),
        "server": _below("server", load.server),
        "gpu": gpu_figures(load.gpu),
    }


def _metrics(load: Measurements) -> dict[str, Any]:
    """Return the figures of the load's own metrics, without those of its servers and GPUs."""
    own = (spec for spec in METRICS.values() if "." not in (spec.key or spec.name))
    figures = {spec.name: _plain(getattr(load, spec.name), any_prompts=bool(load.outcomes)) for spec in own}
    return {name: figure for name, figure in figures.items() if figure != {} or METRICS[name].by_class}


def _plain(metric: Any, *, any_prompts: bool) -> Any:
    if isinstance(metric, Distribution):
        return _figures(metric)
    if isinstance(metric, Mapping):
        return {name: _node(times) for name, times in metric.items()}
    if isinstance(metric, Count):
        return int(metric) if metric.n or not any_prompts else None
    if not metric.n and metric.name in CUSTOM_METRICS:
        return {}
    return float(metric) if any_prompts else None


def _below(place: str, usage: object) -> dict[str, Any]:
    """Return the figures of the metrics below `place`, such as `gpu`; those without samples are left out."""
    found: dict[str, Any] = {}
    for spec in METRICS.values():
        if not spec.name.startswith(f"{place}."):
            continue
        metric = getattr(usage, spec.name.removeprefix(f"{place}."))
        for stat, (_, key) in zip(spec.stats or ("",), spec.figures(), strict=True):
            value = getattr(metric, stat) if stat else metric
            if value.n:
                name, _, last = key.removeprefix(f"{place}.").rpartition(".")
                found.setdefault(name, {})[last] = float(value)
    return found


def _errors(load: Measurements) -> dict[str, int]:
    return {str(status): n for status, n in load.accounting.by_status.items() if status != "success"}


def _parts(parts: Mapping[Hashable, Measurements]) -> dict[str, dict[str, Any]]:
    """Return the summary figures of each part of the run."""
    return {str(value): _summary(part) for value, part in parts.items()}


def _summary(part: Measurements) -> dict[str, Any]:
    shown = [spec.name for spec in METRICS.values() if spec.terminal]
    times = {name: _figures(getattr(part, name)) for name in shown}
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


def gpu_figures(usage: GpuUsage) -> dict[str, Any]:
    """Return the figures of all GPUs and, if there are several, of each under `devices`; empty without samples."""
    devices = usage.devices if len(usage.devices) > 1 else {}
    each = {gpu: _usage_figures(device) for gpu, device in devices.items()}
    return _usage_figures(usage) | ({"devices": each} if each else {})


def _usage_figures(usage: GpuUsage) -> dict[str, Any]:
    figures = _below("gpu", usage)
    if "energy" in figures:
        figures["energy"]["source"] = usage.energy.source
    if "throttled" in figures and (reasons := usage.throttled.reasons):
        figures["throttled"]["reasons"] = {reason: float(share) for reason, share in reasons.items()}
    return figures
