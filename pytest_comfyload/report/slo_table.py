"""The summary of a test, and the table of all SLOs with the reasons of those that did not pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pytest_comfyload.metrics.units import format_interval, format_value
from pytest_comfyload.result.checks import Check
from pytest_comfyload.text import harmless_line

__all__ = ["TestSummary", "last_attempts", "slo_sentences", "slo_table"]

# From so many columns on the interval has one of its own; below, it stands under the value.
_WIDE = 100


def slo_table(summaries: Sequence[TestSummary], width: int) -> Table:
    wide = width >= _WIDE
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    # In a narrow terminal the names give way, never the figures and the verdict.
    table.add_column("SLO", overflow="fold")
    for name in (*(["measured", "90 % interval"] if wide else ["measured\n90 % interval"]), "margin", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    last = last_attempts(summaries)
    for summary in summaries:
        if summary.checks or summary.unreached:
            table.add_row(Text(harmless_line(_test_name(summary, last)), style="bold"))
        for check in summary.checks:
            table.add_row(*_cells(check, wide=wide, verdict=_verdict(check, confident=summary.confident)))
        for slo in summary.unreached:
            table.add_row(_named(slo), *[""] * (4 if wide else 3), Text("not reached", style="yellow"))
    return table


def slo_sentences(summaries: Sequence[TestSummary]) -> Iterator[Text]:
    """Yield one line for each check that was violated or is inconclusive."""
    last = last_attempts(summaries)
    for summary in summaries:
        for check in summary.checks:
            if (check.unsettled or not check.passed) and check.sentence:
                yield Text(harmless_line(f"{_test_name(summary, last)}: {check.metric}: {check.sentence}"))


def _test_name(summary: TestSummary, last: Mapping[str, int]) -> str:
    # Parameters may hold colons of their own.
    path, bracket, parameters = summary.nodeid.partition("[")
    return summary.named(path.rpartition("::")[2] + bracket + parameters, last[summary.nodeid])


def _named(slo: str) -> Padding:
    return Padding(Text(harmless_line(slo)), (0, 0, 0, 2))


def _cells(check: Check, *, wide: bool, verdict: Text) -> tuple[Padding | Text, ...]:
    measured, interval = Text(format_value(check.value, check.unit)), Text(_interval(check), style="dim")
    figures = (measured, interval) if wide else (Text("\n").join([measured, interval] if interval else [measured]),)
    slo = _named(f"{check.metric} {check.op} {check.written_bound}")
    return slo, *figures, Text(check.written_margin), Text(str(check.n)), verdict


def _interval(check: Check) -> str:
    """Format the interval without the value's unit, which stands beside it."""
    if check.interval is None:
        return ""
    unit = format_value(check.value, check.unit).partition(" ")[2]
    return format_interval(*check.interval, check.unit).removesuffix(f" {unit}")


def _verdict(check: Check, *, confident: bool) -> Text:
    """In capitals what fails a test."""
    if not check.passed:
        return Text("FAIL", style="bold red")
    if check.verdict == "no baseline":
        return Text("no baseline", style="yellow")
    if not check.unsettled:
        return Text("pass", style="green")
    if confident:
        return Text(str(check.verdict).upper(), style="bold yellow")
    return Text("pass?" if check.verdict == "inconclusive" else str(check.verdict), style="yellow")


@dataclass(frozen=True, slots=True)
class TestSummary:
    """`runs` are figures as `LoadResult.to_dict` gives them. `unreached` are SLOs as the test's source has them.

    `confident`: a bound had to be cleared by the interval, not only by the value. `sampled_simulation`: the GPUs that
    the test itself sampled were a simulator's. `lines` are on what the test has compared. `attempt`: from 1, of a test
    that is run again when it fails. `dead_asserts`: which of its asserts Python did not execute.
    """

    __test__ = False

    nodeid: str
    runs: tuple[dict[str, Any], ...]
    checks: tuple[Check, ...]
    unreached: tuple[str, ...] = ()
    confident: bool = False
    sampled_simulation: bool = False
    lines: tuple[str, ...] = ()
    attempt: int = 1
    dead_asserts: str = ""

    @property
    def is_simulated(self) -> bool:
        """Whether any of its figures come from a simulator."""
        return self.sampled_simulation or any(run["simulated"] for run in self.runs)

    def named(self, name: str, last: int) -> str:
        """Return the test's `name`, with the attempt where there were several."""
        return f"{name} (attempt {self.attempt} of {last})" if last > 1 else name


def last_attempts(summaries: Iterable[TestSummary]) -> dict[str, int]:
    """Return the number of attempts at each test, by its id."""
    last: dict[str, int] = {}
    for summary in summaries:
        last[summary.nodeid] = max(summary.attempt, last.get(summary.nodeid, 1))
    return last
