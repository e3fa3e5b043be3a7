"""The text about one run on the page of its commit: SLOs, key figures, slowest prompts, failures, provenance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from pytest_comfyload.history.index import Row
from pytest_comfyload.history.pictures import KeptPicture
from pytest_comfyload.history.provenance import Provenance
from pytest_comfyload.history.record import Record
from pytest_comfyload.metrics.registry import METRICS
from pytest_comfyload.metrics.units import format_duration
from pytest_comfyload.report.html.ecdf import Ecdf, ecdfs_of
from pytest_comfyload.report.html.encoding import web_link
from pytest_comfyload.report.html.lanes import Lanes, lanes_of
from pytest_comfyload.report.html.series import environment_words, hardware_words
from pytest_comfyload.report.html.slos import SloRow, problems_of, slo_rows, slos_of
from pytest_comfyload.report.html.verdicts import ORDER, VerdictRow
from pytest_comfyload.result.checks import dominant_phase, format_value, slowest
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.output_files import SOCKET, FetchedFile
from pytest_comfyload.result.validity import measurements

__all__ = ["RunBrief", "RunView", "provenance_words", "run_brief", "run_view", "value_words", "when"]

MOST_FAILURES = 20
MOST_SLOWEST = 5


@dataclass(frozen=True, slots=True)
class NodeTimes:
    """The execution times of a node class; `share` is its percentage of the time in all nodes."""

    name: str
    n: int
    p50: str
    mean: str
    share: float


@dataclass(frozen=True, slots=True)
class Slow:
    prompt_id: str
    user: int
    iteration: int
    total: str
    phases: tuple[tuple[str, str], ...]
    longest: str
    text: str
    files: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """A thumbnail; `url` is a data URL, `why` the reason for keeping the picture."""

    prompt_id: str
    why: str
    url: str
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunBrief:
    """A run in the table of its commit's runs: what failed in it, and the verdict against earlier runs."""

    row: Row
    name: str
    hardware: str
    problems: tuple[str, ...]
    verdict: VerdictRow | None

    @property
    def gravity(self) -> tuple[int, int]:
        """A sort key, smaller for worse runs: failures before slowdowns."""
        verdict = ORDER.index(self.verdict.verdict) if self.verdict else len(ORDER)
        return -len(self.problems), verdict


def run_brief(row: Row, record: Record, verdict: VerdictRow | None) -> RunBrief:
    return RunBrief(
        row=row,
        name=row.series_title,
        hardware=hardware_words(record.environment),
        problems=tuple(problems_of(row, slo_rows(record))),
        verdict=verdict,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView(RunBrief):
    """A run with everything formatted for its page. `facts` are the headline figures, (name, value)."""

    environment: str
    when: str
    facts: tuple[tuple[str, str], ...]
    invalid: str | None
    notes: tuple[str, ...]
    slos: tuple[tuple[str, tuple[SloRow, ...]], ...]
    nodes: tuple[NodeTimes, ...]
    failures: tuple[tuple[str, str, int], ...]
    slow: tuple[Slow, ...]
    pictures: tuple[Shown, ...]
    settings: tuple[tuple[str, str], ...]
    subject: tuple[tuple[str, str], ...]
    gpu_sources: tuple[str, ...]
    lanes: Lanes | None
    ecdfs: tuple[Ecdf, ...]
    sampled_gpus: bool
    panels: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


def run_view(row: Row, record: Record, verdict: VerdictRow | None) -> RunView:
    figures, facts = record.figures, record.facts
    measured = [outcome for outcome in record.outcomes if not outcome.warmup]
    timed = measurements(measured, allow_cached=facts.allow_cached)
    return RunView(
        row=row,
        name=row.series_title,
        environment=environment_words(record.environment),
        hardware=hardware_words(record.environment),
        problems=tuple(problems_of(row, slo_rows(record))),
        verdict=verdict,
        when=when(record.time),
        facts=tuple(_headline(figures)),
        invalid=figures.get("invalid_because"),
        notes=tuple(figures.get("notes", ())),
        slos=tuple((test.nodeid, tuple(slos_of(test))) for test in record.checks),
        nodes=_nodes(figures.get("node_time", {})),
        failures=_failures(measured),
        slow=tuple(_slow(outcome, linked=not facts.simulated) for outcome in slowest(timed, MOST_SLOWEST)),
        pictures=tuple(_shown(each) for each in record.pictures if each.why != "first"),
        settings=tuple((name, value_words(value)) for name, value in record.environment.items()),
        subject=tuple((name, value_words(value)) for name, value in record.subject.items()),
        gpu_sources=facts.gpu_sources,
        lanes=lanes_of(record),
        ecdfs=_ecdfs(record),
        sampled_gpus=bool(facts.gpu_usage),
        panels=tuple(_panels(figures.get("panels"))),
    )


def _ecdfs(record: Record) -> tuple[Ecdf, ...]:
    checks = [check for test in record.checks for check in test.checks]
    return ecdfs_of([("", [record.load()])], checks) if record.outcomes else ()


def _shown(kept: KeptPicture) -> Shown:
    return Shown(kept.prompt_id, kept.why, kept.data_url, kept.width, kept.height)


def _headline(figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    errors = sum(figures.get("errors", {}).values())
    yield "prompts", f"{figures.get('prompts', 0) - errors} of {figures.get('prompts', 0)} succeeded"
    if cached := figures.get("cached"):
        yield "from the cache", f"{cached}{'' if figures.get('allow_cached') else ', not measured'}"
    yield "window", format_duration(round(float(figures.get("window") or 0.0), 1))
    if figures.get("throughput") is not None:
        yield "throughput", format_value(figures["throughput"], f"{figures.get('delivers', 'images')}/min")
    for name, title in ((spec.name, spec.terminal) for spec in METRICS.values() if spec.terminal):
        if times := figures.get(name):
            # Imported runs may lack some percentiles.
            p50, p95 = (format_value(times[each], "s") if each in times else "–" for each in ("p50", "p95"))
            yield f"{title} p50 / p95", f"{p50} / {p95}"
    if gpu := figures.get("gpu"):
        yield from _told("GPU utilisation", gpu.get("utilization", {}).get("mean"))
        yield from _told("VRAM peak", gpu.get("vram", {}).get("peak"))
    yield "seed", str(figures.get("seed", ""))


def _panels(panels: object) -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
    """Yield the title and the rows of each panel that a plugin filled when the run was stored."""
    for title, rows in panels.items() if isinstance(panels, Mapping) else ():
        if isinstance(rows, Mapping):
            yield str(title), tuple((str(name), value_words(value)) for name, value in rows.items())


def _told(name: str, percent: float | None) -> Iterator[tuple[str, str]]:
    if percent is not None:
        yield name, format_value(percent, "%")


def _nodes(times: Mapping[str, Mapping[str, float]]) -> tuple[NodeTimes, ...]:
    whole = sum(each["mean"] * each["n"] for each in times.values()) or 1.0
    return tuple(
        NodeTimes(
            name,
            int(each["n"]),
            format_value(each["p50"], "s"),
            format_value(each["mean"], "s"),
            100 * each["mean"] * each["n"] / whole,
        )
        for name, each in sorted(times.items(), key=lambda item: -item[1]["mean"] * item[1]["n"])
    )


def _failures(outcomes: Sequence[Outcome]) -> tuple[tuple[str, str, int], ...]:
    """Return (kind, message, count) of the failures, the most frequent first."""
    told = Counter((str(each.status), (each.error or "").strip()) for each in outcomes if not each.succeeded)
    return tuple((kind, message, count) for (kind, message), count in told.most_common(MOST_FAILURES))


def _slow(outcome: Outcome, *, linked: bool) -> Slow:
    """Describe a slow prompt. `linked`: link to the outputs on the server; a simulated one stops with its run."""
    return Slow(
        prompt_id=outcome.prompt_id,
        user=outcome.user,
        iteration=outcome.iteration,
        total=format_value(outcome.total_time or 0.0, "s"),
        phases=tuple((name, format_value(seconds, "s")) for name, seconds in outcome.phases().items()),
        longest=dominant_phase(outcome)[0],
        text=outcome.text or "",
        files=tuple((file.filename, _view_link(outcome, file) if linked else None) for file in outcome.outputs),
    )


def _view_link(outcome: Outcome, file: FetchedFile) -> str | None:
    """Return the URL at which the server shows the file, while it keeps it; None for output that was never a file."""
    if file.type == SOCKET:
        return None
    query = urlencode({"filename": file.filename, "subfolder": file.subfolder, "type": file.type})
    return web_link(f"{outcome.ran_on.rstrip('/')}/view?{query}")


def provenance_words(come: Provenance) -> tuple[tuple[str, str, str | None], ...]:
    """Return (name, value, link) of what is known about the provenance."""
    ci = come.ci
    commit_at = f"{come.repository}/commit/{come.commit}" if come.repository and come.commit else None
    machine = come.machine
    words = (
        ("commit", come.commit, web_link(commit_at)),
        ("uncommitted changes", "yes" if come.dirty else None, None),
        ("author", come.author, None),
        ("committed", when(come.date) if come.date is not None else None, None),
        ("branch", come.branch, None),
        ("tag", come.tag, None),
        ("label", come.label, None),
        ("merge-base", f"{come.merge_base[:10]} of {come.base}" if come.merge_base else None, None),
        ("repository", web_link(come.repository), web_link(come.repository)),
        ("CI", f"{ci.system} {ci.run or ''}".strip() if ci else None, web_link(ci.url) if ci else None),
        ("pull request", ci.pull_request if ci else None, None),
        ("load generator", f"{machine.processor}, {machine.cores} cores, {machine.system}" if machine else None, None),
        ("Python", machine.python if machine else None, None),
        ("pytest-comfyload", come.comfyload, None),
        *(("note", note, None) for note in come.notes),
    )
    return tuple((name, value, link) for name, value, link in words if value)


def when(time: float) -> str:
    """Format a time in UTC. A commit may claim any date, even one out of range."""
    try:
        return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return "at an unknown time"


def value_words(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "–" if value is None else str(value)
