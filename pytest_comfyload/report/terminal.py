"""The terminal summary: a line for each test, followed by the details of the tests that failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from pytest_comfyload.errors import StoreError
from pytest_comfyload.history.spool import read_header, read_spool
from pytest_comfyload.metrics.registry import METRICS
from pytest_comfyload.metrics.spec import MetricSpec
from pytest_comfyload.metrics.units import counted, format_duration
from pytest_comfyload.report.slo_table import TestSummary, last_attempts, slo_sentences, slo_table
from pytest_comfyload.report.table import Column, rendered, table_lines
from pytest_comfyload.result.checks import format_value
from pytest_comfyload.result.outcome import OutcomeStatus
from pytest_comfyload.text import harmless_line

__all__ = ["gpu_lines", "interrupted_lines", "run_lines", "short_id", "summary_lines"]

_SIMULATED = "SIMULATED: a model's figures in virtual time; they say nothing about a real server."
# Lines are at least this wide, even in narrower terminals.
_NARROWEST = 80


def summary_lines(summaries: Sequence[TestSummary], *, color: bool, width: int, verbosity: int = 0) -> list[str]:
    """Return the lines of the summary, with ANSI colours if `color`.

    Args:
        verbosity: As in pytest. 0: details of the tests that failed; 1: of all tests; -1: of none.
    """
    width = max(width, _NARROWEST)
    lines: list[Text | str] = [_SIMULATED] if any(summary.is_simulated for summary in summaries) else []
    lines += _tests(summaries, width)
    if verbosity >= 0:
        told = [summary for summary in summaries if verbosity > 0 or _is_explained(summary)]
        lines += _remarks([summary for summary in summaries if summary not in told])
        lines += _details(told, width)
        lines += _unsettled(summaries) if verbosity == 0 else []
    return rendered(lines, color=color, width=width)


def _is_explained(summary: TestSummary) -> bool:
    return summary.failed or any(run["state"] != "valid" for run in summary.runs)


# --- a line for each test ---


def _tests(summaries: Sequence[TestSummary], width: int) -> list[Text]:
    """Return a table with a row for each test, showing the figures of its last load."""
    delivers = sorted({run.get("delivers", "images") for summary in summaries for run in summary.runs})
    columns = [
        Column(),
        *(
            Column(title, right=True)
            for title in ("prompts", "total\np50", "total\np95", f"{'/'.join(delivers)}\n/min")
        ),
        Column("run"),
        Column("test", gives_way=True),
    ]
    rows = [_row(summary, name) for summary, name in zip(summaries, _names(summaries), strict=True)]
    return table_lines(columns, rows, width)


def _names(summaries: Sequence[TestSummary]) -> list[str]:
    """Return the tests' names: the function's name, or the test's id if several functions have that name."""
    short = [summary.function for summary in summaries]
    tests = {summary.nodeid: name for summary, name in zip(summaries, short, strict=True)}
    alike, last = Counter(tests.values()), last_attempts(summaries)
    return [
        summary.named(summary.nodeid if alike[name] > 1 else name, last[summary.nodeid])
        for summary, name in zip(summaries, short, strict=True)
    ]


def _row(summary: TestSummary, name: str) -> list[Text]:
    figures = _figures(summary.runs[-1] if summary.runs else None)
    return [_verdict(summary), *figures, Text(harmless_line(f"{name}{_which(summary)}"))]


def _which(summary: TestSummary) -> str:
    """Return which of a test's loads the figures belong to: ` [five users] (the last of 2 loads)`."""
    if len(summary.runs) < 2:
        return ""
    title = summary.runs[-1]["title"]
    # A load without an id is named after its test.
    own = "" if summary.function.partition("[")[0] in title else f" [{title}]"
    return f"{own} (the last of {len(summary.runs)} loads)"


def _verdict(summary: TestSummary) -> Text:
    """Return the verdict in a word; the words for a failed test are in capitals."""
    if summary.outcome == "rerun":
        return Text("again", style="yellow")
    if summary.outcome == "skipped":
        return Text("xfail", style="yellow")
    if summary.failed:
        invalid = any(run["invalid_because"] for run in summary.runs) and all(check.passed for check in summary.checks)
        return Text("INVALID" if invalid else "FAIL", style="bold red")
    return Text("pass?", style="yellow") if summary.unsettled else Text("pass", style="green")


def _figures(run: Mapping[str, Any] | None) -> list[Text]:
    if run is None:
        return [Text()] * 5
    succeeded = run["prompts"] - sum(run["errors"].values())
    prompts = str(succeeded) if succeeded == run["prompts"] else f"{succeeded} of {run['prompts']}"
    total = run.get("total_time", {})
    p50, p95 = (format_value(total[key], "s") if key in total else "–" for key in ("p50", "p95"))
    return [
        Text(prompts, style="" if succeeded == run["prompts"] else "red"),
        Text(p50),
        Text(p95),
        Text(format_value(run["throughput"] or 0.0, "")),
        Text(short_id(run["run_id"]), style="dim"),
    ]


def short_id(run_id: str) -> str:
    """Return the last part of a run's id, which commands accept: `0a1b2c3d` of `20260101T000000-0a1b2c3d`."""
    return run_id.rpartition("-")[2]


# --- remarks and details ---


def _remarks(summaries: Sequence[TestSummary]) -> Iterator[Text | str]:
    """Yield what matters about tests that passed: the notes on their runs, and two lines for each comparison."""
    notes: dict[str, list[str]] = {}
    for summary in summaries:
        for note in (note for run in summary.runs for note in run["notes"]):
            notes.setdefault(note, []).append(summary.function)
        for verdict, sentence, *_ in summary.comparisons:
            yield verdict
            yield sentence
    for note, tests in notes.items():
        others = f" and {counted(len(tests) - 1, 'other')}" if len(tests) > 1 else ""
        yield f"note: {note} ({tests[0]}{others})"


def _details(summaries: Sequence[TestSummary], width: int) -> Iterator[Text | str]:
    runs = {run["run_id"]: run for summary in summaries for run in summary.runs}
    for run in runs.values():
        yield from run_lines(run)
    yield from (line for summary in summaries for lines in summary.comparisons for line in lines)
    if any(summary.checks or summary.unreached for summary in summaries):
        yield from slo_table(summaries, width)
    yield from slo_sentences(summaries)


def _unsettled(summaries: Sequence[TestSummary]) -> Iterator[str]:
    if count := sum(summary.unsettled for summary in summaries):
        tests = counted(count, "test", "passes", "pass")
        yield f"{tests} on too few prompts to be certain (pass?): -v says what settles it"


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
        yield "  CONTAMINATED: other clients used the server at the same time; the run is not used as a baseline"
    for note in run["notes"]:
        yield f"  note: {note}"


def _cache(run: Mapping[str, Any]) -> str:
    """Return the cached nodes, as `cached: CheckpointLoaderSimple, CLIPTextEncode (4 of 9); ran always: KSampler`."""
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
    prompts = counted(run["prompts"], "prompt")
    of = prompts if succeeded == run["prompts"] else f"{succeeded} of {prompts}"
    return f"{of} succeeded{_from_cache(run)}{failures}{dropped}"


def _from_cache(run: Mapping[str, Any]) -> str:
    if not (cached := run.get("cached")):
        return ""
    return f" ({cached} from the server's cache{'' if run.get('allow_cached') else ', and not measured'})"


def _parts(run: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each group, server and worker if there are several, with the times that users wait."""
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
    """Yield a line for all GPUs together, and one for each GPU if there are several; nothing without figures."""
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
    """Return the card's figure and ComfyUI's own, which differ although both are correct."""
    if "memory_used" not in gpu:
        return ""
    own = server.get("vram_used")
    # ComfyUI reports the sum over a server's devices, which is not comparable if there are several GPUs.
    if not own or "devices" in gpu or "utilization" not in gpu:
        return f"VRAM: peak {_vram(gpu)}"
    said = format_value(own["max"], "B")
    return f"VRAM: peak {_vram(gpu)}; ComfyUI says {said}: it counts what torch keeps for later use as free"


def _vram(gpu: Mapping[str, Any]) -> str:
    share = f" ({format_value(gpu['vram']['peak'], '%')})" if "vram" in gpu else ""
    return f"{format_value(gpu['memory_used']['peak'], 'B')}{share}"


def interrupted_lines(spool: Path) -> Iterator[str]:
    """Yield lines on an interrupted run; nothing if its spool is on another machine or damaged."""
    try:
        header = read_header(spool)
        ended = sum(1 for each in read_spool(spool) if not each.warmup and each.status is not OutcomeStatus.CENSORED)
    except (StoreError, OSError):
        return
    of = f"{ended} of {counted(header.planned, 'prompt')}" if header.planned is not None else counted(ended, "prompt")
    yield header.title
    yield f"  interrupted: {of} ended; run {header.run_id}"
