"""What travels from a test to the controller and its summary: built-ins only, on the test's report, versioned.

It rides on the report as an attribute: it crosses to an xdist controller once, survives a worker that crashes later,
and stays out of JUnit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from pytest_comfyload.metrics.metric import MetricValue
from pytest_comfyload.redaction import redacted, redacted_values
from pytest_comfyload.report.slo_table import TestSummary
from pytest_comfyload.result.checks import Check
from pytest_comfyload.result.load_result import LoadResult

__all__ = ["attach", "detach", "plain", "redact_report"]

ATTRIBUTE = "comfyload"
VERSION = 5


def attach(
    report: pytest.TestReport,
    loads: Sequence[LoadResult],
    checks: Sequence[Check],
    unreached: Sequence[str],
    lines: Sequence[str] = (),
    *,
    confident: bool,
    sampled_simulation: bool,
    attempt: int = 1,
    dead_asserts: str = "",
) -> None:
    payload = {
        "version": VERSION,
        "runs": [load.to_dict() for load in loads],
        "checks": [dataclasses.asdict(check) for check in checks],
        "unreached": list(unreached),
        "lines": list(lines),
        "confident": confident,
        "sampled_simulation": sampled_simulation,
        "attempt": attempt,
        "dead_asserts": dead_asserts,
    }
    setattr(report, ATTRIBUTE, payload)


def detach(report: pytest.TestReport) -> TestSummary | None:
    """None for a report without load results, or from another version of this plugin."""
    payload = getattr(report, ATTRIBUTE, None)
    if not isinstance(payload, dict) or payload.get("version") != VERSION:
        return None
    checks = tuple(Check(**check) for check in payload["checks"])
    runs, unreached = tuple(payload["runs"]), tuple(payload["unreached"])
    return TestSummary(
        report.nodeid,
        runs,
        checks,
        unreached,
        payload["confident"],
        lines=tuple(payload["lines"]),
        sampled_simulation=payload["sampled_simulation"],
        attempt=payload["attempt"],
        dead_asserts=payload["dead_asserts"],
    )


def redact_report(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Take the secrets out of what pytest shows and other plugins write: tracebacks with values, captured output."""
    report.sections[:] = redacted_values(report.sections)
    if isinstance(report, pytest.TestReport):
        report.user_properties[:] = redacted_values(report.user_properties)
    report.longrepr = _redact_shown(report.longrepr)


def _redact_shown(shown: Any) -> Any:
    """Pytest's own objects are changed in place: what they show is in attributes that no constructor takes."""
    if isinstance(shown, str):
        return redacted(shown)
    if type(shown) in (list, tuple):
        return type(shown)(map(_redact_shown, shown))
    if type(shown).__module__.startswith("_pytest."):
        for name, value in vars(shown).items():
            setattr(shown, name, _redact_shown(value))
    return shown


def plain(value: Any) -> Any:
    """With plain numbers for metrics: what a user gives to `record_property` travels too, and xdist takes no others."""
    match value:
        case MetricValue():
            return value.plain
        case dict():
            return {plain(key): plain(each) for key, each in value.items()}
        case list():
            return [plain(each) for each in value]
        case tuple():
            return tuple(plain(each) for each in value)
    return value
