"""The first screen of the report: a sentence on the newest commit, and a row for each scenario, the worst first."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_comfyload.history.index import Row
from pytest_comfyload.history.record import Record
from pytest_comfyload.metrics.units import counted
from pytest_comfyload.report.html.compare_view import CompareView
from pytest_comfyload.report.html.series import Line, hardware_words, short_commit
from pytest_comfyload.report.html.slos import SloRow, failures_of, problems_of, slo_rows
from pytest_comfyload.report.html.sparklines import SeriesCard, Sparkline, card_of, sparkline
from pytest_comfyload.report.html.verdicts import VerdictRow

__all__ = ["STATUSES", "Headline", "Overview", "ScenarioRow", "overview", "scenario_name"]

Level = Literal["bad", "doubtful", "good"]
Status = Literal["failing", "slower", "suspected", "unsure", "missing", "new", "faster", "fine"]
# The worst first.
STATUSES: tuple[Status, ...] = ("failing", "slower", "suspected", "unsure", "missing", "new", "faster", "fine")
_BY_VERDICT: dict[str, Status] = {
    "regressed": "slower", "suspected": "suspected", "inconclusive": "unsure", "missing": "missing",
    "recording": "new", "improved": "faster", "unchanged": "fine",
}  # fmt: skip
# Maximum number of scenarios named below the headline.
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class ScenarioRow:
    """The row of a scenario. `item` is its worst verdict, `others` are the rest; `problems` says what failed.

    `failed` is the number of failed prompts; `accept` is the command that accepts an intended slowdown.
    """

    status: Status
    item: VerdictRow
    others: tuple[VerdictRow, ...]
    slos: tuple[SloRow, ...]
    problems: tuple[str, ...]
    failed: int
    hardware: str
    spark: Sparkline
    accept: str | None

    @property
    def failed_slos(self) -> int:
        return sum(slo.verdict in ("fail", "not reached") for slo in self.slos)


@dataclass(frozen=True, slots=True)
class Headline:
    """The headline. `level` is `bad`, `doubtful` or `good`; `details` are lines below the sentence."""

    level: Level
    sentence: str
    details: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Overview:
    """The first screen. `cards` show all series, including those without a row, ordered by test."""

    headline: Headline
    rows: tuple[ScenarioRow, ...]
    cards: tuple[SeriesCard, ...]

    def of_status(self, *statuses: Status) -> tuple[ScenarioRow, ...]:
        return tuple(row for row in self.rows if row.status in statuses)

    def count(self, status: Status) -> int:
        return len(self.of_status(status))


def overview(
    items: Sequence[VerdictRow],
    lines: Iterable[Line],
    newest: Row,
    record_of: Callable[[Row], Record],
    compared: Sequence[CompareView] = (),
) -> Overview:
    """Gather the verdicts of each run into a row; without any, the headline is about the first of `compared`.

    `newest` is a run of the newest commit.
    """
    by_print = {line.fingerprint: line for line in lines if line.newest.comparison is None}
    by_run: dict[str, list[VerdictRow]] = {}
    for item in items:
        if item.head.comparison is None:
            by_run.setdefault(item.head.file, []).append(item)
    rows = [_row(each, by_print[each[0].head.fingerprint], record_of(each[0].head)) for each in by_run.values()]
    rows.sort(key=_rank)
    cards = tuple(card_of(line, record_of(line.newest)) for line in by_print.values())
    headline = _headline(rows, newest) if rows or not compared else _of_comparison(compared[0])
    return Overview(headline, tuple(rows), cards)


def _rank(row: ScenarioRow) -> tuple[int, float, float, str]:
    change = row.item.change if math.isfinite(row.item.change) else 0.0
    return STATUSES.index(row.status), -row.failed / max(1, row.item.head.prompts), -abs(change), row.item.test


def _row(items: Sequence[VerdictRow], line: Line, record: Record) -> ScenarioRow:
    item, *others = items
    is_missing = item.verdict == "missing"
    slos = () if is_missing else slo_rows(record)
    problems = () if is_missing else tuple(problems_of(item.head, slos))
    return ScenarioRow(
        status="failing" if problems else _BY_VERDICT[item.verdict],
        item=item,
        others=tuple(others),
        slos=slos,
        problems=problems,
        failed=0 if is_missing else sum(failures_of(item.head).values()),
        hardware=hardware_words(record.environment),
        spark=sparkline(line, item.head),
        accept=_accept(item),
    )


def _accept(item: VerdictRow) -> str | None:
    """Return the command that accepts an intended slowdown; None if there is nothing to accept."""
    if item.verdict != "regressed" or item.accepted is not None:
        return None
    where = item.head.commit[:12] if item.head.commit else "HEAD"
    return f"comfyload accept {shlex.quote(where)} --reason {shlex.quote('why it is intended')}"


# --- the sentence ---


def _headline(rows: Sequence[ScenarioRow], newest: Row) -> Headline:
    commit = f"{short_commit(newest)}{f' “{newest.title}”' if newest.title else ''}"
    failing = [row for row in rows if row.status == "failing"]
    slower = [row for row in rows if row.item.verdict in ("regressed", "suspected")]
    unsure = [row for row in rows if row.status in ("unsure", "missing")]
    details = tuple(_details(failing, slower))
    if failing:
        more = f", {len(slower)} slower" if slower else ""
        return Headline("bad", f"{commit}: {counted(len(failing), 'scenario')} failing{more}.", details)
    if slower:
        level: Level = "bad" if any(row.item.verdict == "regressed" for row in slower) else "doubtful"
        return Headline(level, f"{commit}: {counted(len(slower), 'scenario')} slower.", details)
    if unsure:
        return Headline("doubtful", f"{commit}: {counted(len(unsure), 'scenario')} without a clear verdict.", details)
    faster = sum(row.status == "faster" for row in rows)
    more = f", {faster} faster" if faster else ""
    return Headline("good", f"{commit}: nothing broken, nothing slower{more}.", details)


def _of_comparison(ab: CompareView) -> Headline:
    levels: dict[str, Level] = {"regressed": "bad", "inconclusive": "doubtful"}
    judged = ab.judged
    sentence = f"{judged.test}: B against A is {judged.verdict}."
    return Headline(levels.get(judged.verdict, "good"), sentence, judged.sentences)


def _details(failing: Sequence[ScenarioRow], slower: Sequence[ScenarioRow]) -> Iterator[str]:
    named = [*failing, *(row for row in slower if row.status != "failing")]
    for row in named[:_MOST_NAMED]:
        facts = [*row.problems]
        if row in slower:
            doubt = ", in one run so far" if row.item.verdict == "suspected" else ""
            facts.append(f"{row.item.figure} {_signed(row.item)}{doubt}")
        cause = f" ({', '.join(row.item.subject[:2])})" if row.item.subject else ""
        yield f"{scenario_name(row.item.test)}: {'; '.join(facts)}{cause}"
    if len(named) > _MOST_NAMED:
        yield f"and {counted(len(named) - _MOST_NAMED, 'more scenario')}"


def _signed(item: VerdictRow) -> str:
    change = f"{item.change:+.0f} %" if item.unit == "%" else f"{item.change:+.3g} {item.unit}".rstrip()
    return f"{change.replace('-', '−')} ({item.medians})" if item.medians else change.replace("-", "−")


def scenario_name(test: str) -> str:
    """Return a short name of a test: `img2img · test_slo[x]` for `tests/test_img2img.py::test_slo[x]`."""
    path, _, name = test.partition("::")
    module = path.rpartition("/")[2].removesuffix(".py").removeprefix("test_")
    return f"{module} · {name}" if name else test
