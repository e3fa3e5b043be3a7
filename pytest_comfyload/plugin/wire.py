"""What travels from a test to the controller and its summary: built-ins only, on the test's report, versioned.

It rides on the report as an attribute: it crosses to an xdist controller once, survives a worker that crashes later,
and stays out of JUnit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from pytest_comfyload.report.summary import TestSummary
from pytest_comfyload.result.checks import Check
from pytest_comfyload.result.load_result import LoadResult

__all__ = ["attach", "detach"]

ATTRIBUTE = "comfyload"
VERSION = 1


def attach(report: pytest.TestReport, loads: Sequence[LoadResult], checks: Sequence[Check]) -> None:
    payload = {
        "version": VERSION,
        "runs": [load.to_dict() for load in loads],
        "checks": [dataclasses.asdict(check) for check in checks],
    }
    setattr(report, ATTRIBUTE, payload)


def detach(report: pytest.TestReport) -> TestSummary | None:
    """None for a report without load results, or from another version of this plugin."""
    payload = getattr(report, ATTRIBUTE, None)
    if not isinstance(payload, dict) or payload.get("version") != VERSION:
        return None
    checks = tuple(Check(**check) for check in payload["checks"])
    return TestSummary(report.nodeid, tuple(payload["runs"]), checks)
