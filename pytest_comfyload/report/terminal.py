"""The terminal summary: a few lines for each run, then one table with every SLO."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from pytest_comfyload.metrics.units import format_duration
from pytest_comfyload.report.gpu_lines import gpu_lines
from pytest_comfyload.report.slo_table import slo_sentences, slo_table
from pytest_comfyload.report.summary import TestSummary
from pytest_comfyload.result.checks import format_value
from pytest_comfyload.text import harmless

__all__ = ["run_lines", "summary_lines"]

_SIMULATED = "SIMULATED: these figures are a model's, in virtual time; they say nothing of a real server."
_PHASES = ("queue_time", "generation_time", "total_time")


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
    if phases := [_phase(name, run[name]) for name in _PHASES if name in run]:
        yield "  p50 / p95: " + " · ".join(phases)
    if cache := _cache(run):
        yield f"  {cache}"
    yield from (f"  {line}" for line in gpu_lines(run))
    yield from _parts(run)
    yield f"  run {run['run_id']}"
    if run["invalid_because"]:
        yield f"  INVALID: {run['invalid_because']}"
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
        phases = "".join(f" · {_phase(phase, part[phase])}" for phase in ("queue_time", "total_time") if phase in part)
        yield f"    {name:<{width}}  {_accounts(part)}{phases}"


def _phase(name: str, figures: Mapping[str, float]) -> str:
    p50, p95 = (format_value(figures[key], "s") for key in ("p50", "p95"))
    return f"{name.removesuffix('_time')} {p50} / {p95}"
