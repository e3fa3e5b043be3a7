"""The terminal summary: a few lines for each run, its GPUs among them, then one table with every SLO."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from pytest_comfyload.errors import StoreError
from pytest_comfyload.history.spool import read_header, read_spool
from pytest_comfyload.metrics.registry import METRICS
from pytest_comfyload.metrics.spec import MetricSpec
from pytest_comfyload.metrics.units import format_duration
from pytest_comfyload.report.slo_table import TestSummary, slo_sentences, slo_table
from pytest_comfyload.result.checks import format_value
from pytest_comfyload.result.outcome import OutcomeStatus
from pytest_comfyload.text import harmless

__all__ = ["gpu_lines", "interrupted_lines", "run_lines", "summary_lines"]

_SIMULATED = "SIMULATED: these figures are a model's, in virtual time; they say nothing of a real server."


def summary_lines(summaries: Sequence[TestSummary], *, color: bool, width: int) -> list[str]:
    """Ready to be written; with ANSI colours if `color`."""
    runs = {run["run_id"]: run for summary in summaries for run in summary.runs}
    console = Console(
        file=io.StringIO(), width=max(width, 80), force_terminal=color, no_color=not color, highlight=False, emoji=False
    )
    if any(summary.is_simulated for summary in summaries):
        console.print(Text(_SIMULATED), soft_wrap=True)
    for run in runs.values():
        for line in run_lines(run):
            console.print(Text(harmless(line)), soft_wrap=True)
    for line in (line for summary in summaries for line in summary.lines):
        console.print(Text(harmless(line)), soft_wrap=True)
    if any(summary.checks or summary.unreached for summary in summaries):
        console.print(slo_table(summaries, console.width))
    for sentence in slo_sentences(summaries):
        console.print(sentence, soft_wrap=True)
    output = console.file
    assert isinstance(output, io.StringIO)
    return [line.rstrip() for line in output.getvalue().splitlines()]


def run_lines(run: Mapping[str, Any]) -> Iterator[str]:
    yield f"{run['title']} ({run['repetition']})" if run.get("repetition") else run["title"]
    simulated = " · SIMULATED" if run["simulated"] else ""
    yield f"  {run['scenario']} · seed {run['seed']} · {', '.join(run['servers'])}{simulated}"
    throughput = format_value(run["throughput"] or 0.0, f"{run.get('delivers', 'images')}/min")
    yield f"  {_accounts(run)} in {format_duration(run['window'])} · {throughput}"
    if phases := [_phase(spec, run[spec.name]) for spec in METRICS.values() if spec.terminal and spec.name in run]:
        yield "  p50 / p95: " + " · ".join(phases)
    if cache := _cache(run):
        yield f"  {cache}"
    yield from (f"  {line}" for line in gpu_lines(run))
    yield from _parts(run)
    yield f"  run {run['run_id']}"
    if run["invalid_because"]:
        label = "INCOMPLETE" if run["state"] == "incomplete" else "INVALID"
        yield f"  {label}: {run['invalid_because']}"
    if run["state"] == "contaminated":
        yield "  CONTAMINATED: others used the server meanwhile; such a run is no baseline"
    for note in run["notes"]:
        yield f"  note: {note}"


def _cache(run: Mapping[str, Any]) -> str:
    """`cached: CheckpointLoaderSimple, CLIPTextEncode (4 of 9); ran always: KSampler`"""
    succeeded = run["prompts"] - sum(run["errors"].values())
    cached = [
        name if count == succeeded else f"{name} ({count} of {succeeded})"
        for name, count in run.get("cached_classes", {}).items()
    ]
    parts = [("cached", cached), ("ran always", run.get("always_ran", []))]
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in parts if names)


def _accounts(run: Mapping[str, Any]) -> str:
    failures = "".join(f", {count} {kind}" for kind, count in run["errors"].items())
    succeeded = run["prompts"] - sum(run["errors"].values())
    dropped = f", {run['dropped']} more dropped" if run.get("dropped") else ""
    return f"{succeeded} of {run['prompts']} prompts succeeded{_from_cache(run)}{failures}{dropped}"


def _from_cache(run: Mapping[str, Any]) -> str:
    if not (cached := run.get("cached")):
        return ""
    return f" ({cached} from the server's cache{'' if run.get('allow_cached') else ', and not measured'})"


def _parts(run: Mapping[str, Any]) -> Iterator[str]:
    """The groups, servers and workers, where there are several: each with what of it a person waits for."""
    kinds = ("group", "server", "worker")
    parts = [(f"{kind} {name}", part) for kind in kinds for name, part in run[f"by_{kind}"].items()]
    width = max((len(name) for name, _ in parts), default=0)
    for name, part in parts:
        phases = "".join(
            f" · {_phase(METRICS[name], part[name])}" for name in ("queue_time", "total_time") if name in part
        )
        yield f"    {name:<{width}}  {_accounts(part)}{phases}"


def _phase(spec: MetricSpec, figures: Mapping[str, float]) -> str:
    p50, p95 = (format_value(figures[key], spec.unit) for key in ("p50", "p95"))
    return f"{spec.terminal} {p50} / {p95}"


def gpu_lines(run: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for all GPUs, and one for each where there are several; none without figures."""
    gpu: Mapping[str, Any] = run.get("gpu") or {}
    output = run.get("delivers", "images").removesuffix("s")
    if parts := [*_work(gpu, output), *_strain(gpu)]:
        yield f"GPU: {' · '.join(parts)}"
    if memory := _memory(gpu, run.get("server") or {}):
        yield memory
    for name, device in gpu.get("devices", {}).items():
        used = [f"VRAM peak {_vram(device)}"] if "memory_used" in device else []
        if parts := [*_work(device, output), *used, *_strain(device)]:
            yield f"  {name}: {' · '.join(parts)}"


def _work(gpu: Mapping[str, Any], output: str) -> Iterator[str]:
    if utilization := gpu.get("utilization"):
        busy = (
            f" ({format_value(utilization['busy_mean'], '%')} while prompts ran)" if "busy_mean" in utilization else ""
        )
        yield f"utilization {format_value(utilization['mean'], '%')}{busy}"
    if power := gpu.get("power"):
        yield f"power {format_value(power['mean'], 'W')}"
    if "per_image" in (energy := gpu.get("energy", {})):
        source = "" if energy["source"] == "counter" else f" (by {energy['source']})"
        yield f"{format_value(energy['per_image'], 'J')} per {output}{source}"


def _strain(gpu: Mapping[str, Any]) -> Iterator[str]:
    if temperature := gpu.get("temperature"):
        yield f"max {format_value(temperature['max'], '°C')}"
    if throttled := gpu.get("throttled"):
        reasons = ", ".join(
            f"{name} {format_value(share, '%')}" for name, share in throttled.get("reasons", {}).items()
        )
        yield f"throttled {format_value(throttled['percent'], '%')}" + (f" ({reasons})" if reasons else "")


def _memory(gpu: Mapping[str, Any], server: Mapping[str, Any]) -> str:
    """The card's figure, and ComfyUI's own: both are right, and they differ."""
    if "memory_used" not in gpu:
        return ""
    own = server.get("vram_used")
    # ComfyUI's is the sum of a server's devices: of several GPUs it is not the same thing.
    if not own or "devices" in gpu or "utilization" not in gpu:
        return f"VRAM: peak {_vram(gpu)}"
    said = format_value(own["max"], "B")
    return f"VRAM: peak {_vram(gpu)}; ComfyUI says {said}: it counts what torch keeps for later use as free"


def _vram(gpu: Mapping[str, Any]) -> str:
    share = f" ({format_value(gpu['vram']['peak'], '%')})" if "vram" in gpu else ""
    return f"{format_value(gpu['memory_used']['peak'], 'B')}{share}"


def interrupted_lines(spool: Path) -> Iterator[str]:
    """Yield lines on an interrupted run; none where its spool is on another machine, or damaged."""
    try:
        header = read_header(spool)
        ended = sum(1 for each in read_spool(spool) if not each.warmup and each.status is not OutcomeStatus.CENSORED)
    except (StoreError, OSError):
        return
    of = f" of {header.planned}" if header.planned is not None else ""
    yield header.title
    yield f"  interrupted: {ended}{of} prompts ended; run {header.run_id}"
