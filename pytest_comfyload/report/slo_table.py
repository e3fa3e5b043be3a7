"""The summary of a test, and the table of all SLOs with the reasons of those that did not pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from pytest_comfyload.metrics.units import format_interval, format_value
from pytest_comfyload.report.table import Column, table_lines
from pytest_comfyload.result.checks import Check
from pytest_comfyload.text import harmless_line

__all__ = ["TestSummary", "last_attempts", "slo_sentences", "slo_table"]

# From so many columns on the interval has one of its own; below, it stands under the value.
_WIDE = 100


def slo_table(summaries: Sequence[TestSummary], width: int) -> list[Text]:
    """Lay out every SLO with its verdict. In a narrow terminal the names give way, never the figures."""
    wide = width >= _WIDE
    figures = ("measured", "90 % interval") if wide else ("measured\n90 % interval",)
    columns = [
        Column("SLO", gives_way=True),
        *(Column(name, right=True) for name in (*figures, "margin", "n")),
        Column("verdict"),
    ]
    last = last_attempts(summaries)
    rows: list[list[Text]] = []
    for summary in summaries:
        if summary.checks or summary.unreached:
            rows.append([Text(harmless_line(_test_name(summary, last)), style="bold")])
        for check in summary.checks:
            rows.append(_cells(check, wide=wide, verdict=_verdict(check, confident=summary.confident)))
        for slo in summary.unreached:
            empty = [Text()] * (len(columns) - 2)
            rows.append([_named(slo), *empty, Text("not reached", style="yellow")])
    return table_lines(columns, rows, width)


def slo_sentences(summaries: Sequence[TestSummary]) -> Iterator[Text]:
    """Yield one line for each check that was violated or is inconclusive."""
    last = last_attempts(summaries)
    for summary in summaries:
        for check in summary.checks:
            if (check.unsettled or not check.passed) and check.sentence:
                yield Text(harmless_line(f"{_test_name(summary, last)}: {check.metric}: {check.sentence}"))


def _test_name(summary: TestSummary, last: Mapping[str, int]) -> str:
    return summary.named(summary.function, last[summary.nodeid])


def _named(slo: str) -> Text:
    return Text(f"  {harmless_line(slo)}")


def _cells(check: Check, *, wide: bool, verdict: Text) -> list[Text]:
    measured, interval = Text(format_value(check.value, check.unit)), Text(_interval(check), style="dim")
    figures = [measured, interval] if wide else [Text("\n").join([measured, interval] if interval else [measured])]
    slo = _named(f"{check.metric} {check.op} {check.written_bound}")
    return [slo, *figures, Text(check.written_margin), Text(str(check.n)), verdict]


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
    the test itself sampled were a simulator's. `comparisons`: the lines on each comparison of A and B, its verdict
    first. `attempt`: from 1, of a test that is run again when it fails. `dead_asserts`: which of its asserts Python did
    not execute. `outcome`: the test's own, as pytest has it.
    """

    __test__ = False

    nodeid: str
    runs: tuple[dict[str, Any], ...]
    checks: tuple[Check, ...]
    unreached: tuple[str, ...] = ()
    confident: bool = False
    sampled_simulation: bool = False
    comparisons: tuple[tuple[str, ...], ...] = ()
    attempt: int = 1
    dead_asserts: str = ""
    outcome: str = "passed"

    @property
    def is_simulated(self) -> bool:
        """Whether any of its figures come from a simulator."""
        return self.sampled_simulation or any(run["simulated"] for run in self.runs)

    @property
    def function(self) -> str:
        """The name of the test's function, with its parameters."""
        # They may hold colons of their own.
        path, bracket, parameters = self.nodeid.partition("[")
        return path.rpartition("::")[2] + bracket + parameters

    @property
    def failed(self) -> bool:
        """Whether the test failed, or an SLO of it did."""
        return self.outcome == "failed" or not all(check.passed for check in self.checks) or bool(self.unreached)

    @property
    def unsettled(self) -> bool:
        """Whether it passed on figures that are too few to tell."""
        return not self.failed and any(check.unsettled for check in self.checks)

    def named(self, name: str, last: int) -> str:
        """Return the test's `name`, with the attempt where there were several."""
        return f"{name} (attempt {self.attempt} of {last})" if last > 1 else name


def last_attempts(summaries: Iterable[TestSummary]) -> dict[str, int]:
    """Return the number of attempts at each test, by its id."""
    last: dict[str, int] = {}
    for summary in summaries:
        last[summary.nodeid] = max(summary.attempt, last.get(summary.nodeid, 1))
    return last
