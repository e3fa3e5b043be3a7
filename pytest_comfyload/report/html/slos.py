"""The SLOs of a run as shown on a page, and what failed in the run, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_comfyload.history.index import Row
from pytest_comfyload.history.record import Record, TestChecks
from pytest_comfyload.metrics.units import counted
from pytest_comfyload.result.checks import Check, format_value

__all__ = ["SloRow", "failures_of", "problems_of", "slo_rows", "slos_of"]


@dataclass(frozen=True, slots=True)
class SloRow:
    claim: str
    value: str
    interval: str
    margin: str
    n: int | None
    verdict: str
    sentence: str


def slo_rows(record: Record) -> tuple[SloRow, ...]:
    """Return all SLOs of a run: first what failed, then what was not reached, then the rest."""
    rows = [slo for test in record.checks for slo in slos_of(test)]
    return tuple(sorted(rows, key=_gravity))


def problems_of(head: Row, slos: Sequence[SloRow]) -> Iterator[str]:
    """Yield what failed in a run, in words, the most serious first."""
    failures = failures_of(head)
    if oom := failures.pop("oom", 0):
        yield f"{oom} of {counted(head.prompts, 'prompt')} ran out of memory"
    if failures:
        kinds = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in failures.items())
        yield f"{sum(failures.values())} of {counted(head.prompts, 'prompt')} failed ({kinds})"
    if head.state in ("invalid", "incomplete"):
        yield f"the run is {head.state}"
    failed = [slo for slo in slos if slo.verdict == "fail"]
    if failed:
        yield f"{failed[0].claim} failed: {failed[0].value}"
    if len(failed) > 1:
        yield f"{counted(len(failed) - 1, 'more SLO')} failed"
    if unreached := sum(slo.verdict == "not reached" for slo in slos):
        yield f"{counted(unreached, 'SLO')} not reached"


def failures_of(head: Row) -> dict[str, int]:
    """Return the number of failed prompts, by kind."""
    prefix = "errors."
    return {name.removeprefix(prefix): round(n) for name, n in head.figures.items() if name.startswith(prefix) and n}


def _gravity(slo: SloRow) -> int:
    return {"fail": 0, "not reached": 1, "pass": 3}.get(slo.verdict, 2)


def slos_of(test: TestChecks) -> Iterator[SloRow]:
    """Yield the SLOs of a test, the most serious first."""
    unreached = [SloRow(claim, "–", "", "", None, "not reached", "") for claim in test.unreached]
    yield from sorted([*map(_slo, test.checks), *unreached], key=_gravity)


def _slo(check: Check) -> SloRow:
    return SloRow(
        claim=f"{check.metric} {check.op} {check.written_bound}",
        value="–" if math.isnan(check.value) else _value(check.value, check),
        interval=" to ".join(_value(end, check) for end in check.interval or ()),
        margin=check.written_margin.replace("-", "−"),
        n=check.n,
        verdict=check.verdict or "pass" if check.passed else "fail",
        sentence=check.sentence,
    )


def _value(value: float, check: Check) -> str:
    return format_value(value, check.unit)
