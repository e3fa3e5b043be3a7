"""The summary of a test, and the table of all SLOs with explanations of those that did not pass."""

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

# In terminals at least this wide, the interval has its own column; otherwise it is below the value.
_WIDE = 100


def slo_table(summaries: Sequence[TestSummary], width: int) -> list[Text]:
    """Return the table of all SLOs with their verdicts. In a narrow terminal the names wrap, never the figures."""
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
    """Format the interval without its unit if that is the value's, which is next to it."""
    if check.interval is None:
        return ""
    unit = format_value(check.value, check.unit).partition(" ")[2]
    return format_interval(*check.interval, check.unit).removesuffix(f" {unit}")


def _verdict(check: Check, *, confident: bool) -> Text:
    """Return the verdict in a word; the words for what fails a test are in capitals."""
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
    """The results of one attempt at a test.

    `runs` are figures as returned by `LoadResult.to_dict`. `unreached` are SLOs in the test's source text.
    `confident`: the whole interval had to be within a bound, not only the value. `sampled_simulation`: the GPUs that
    the test itself sampled were a simulator's. `comparisons`: the lines of each comparison of A and B, the verdict
    first. `attempt` counts from 1, for tests that are rerun on failure. `dead_asserts`: the asserts that Python did not
    execute. `outcome` is pytest's.
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
        # The parameters may contain colons.
        path, bracket, parameters = self.nodeid.partition("[")
        return path.rpartition("::")[2] + bracket + parameters

    @property
    def failed(self) -> bool:
        """Whether the test or one of its SLOs failed."""
        return self.outcome == "failed" or not all(check.passed for check in self.checks) or bool(self.unreached)

    @property
    def unsettled(self) -> bool:
        """Whether the test passed, but on too few samples to be certain."""
        return not self.failed and any(check.unsettled for check in self.checks)

    def named(self, name: str, last: int) -> str:
        """Return `name`, followed by the attempt if there were several."""
        return f"{name} (attempt {self.attempt} of {last})" if last > 1 else name


def last_attempts(summaries: Iterable[TestSummary]) -> dict[str, int]:
    """Return the number of attempts at each test, by its id."""
    last: dict[str, int] = {}
    for summary in summaries:
        last[summary.nodeid] = max(summary.attempt, last.get(summary.nodeid, 1))
    return last
