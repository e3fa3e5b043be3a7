"""What a test with loads or checks adds to its report: figures to carry, a few properties, why an SLO was violated."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pytest_comfyload.plugin.wire import attach
from pytest_comfyload.result.checks import Check, explain
from pytest_comfyload.result.load_result import LoadResult

__all__ = ["report_loads"]


def report_loads(
    item: pytest.Item, report: pytest.TestReport, loads: Sequence[LoadResult], checks: Sequence[Check]
) -> None:
    if not loads and not checks:
        return
    attach(report, loads, checks)
    # The item's list, not the report's: JUnit reads the properties of the teardown report.
    item.user_properties.extend(_properties(loads[-1]) if loads else ())
    violated = [check for check in checks if not check.passed]
    if report.failed and violated:
        lines = [line for check in violated for line in _explained(check, loads)]
        report.sections.append(("comfyload", "\n".join(lines)))


def _explained(check: Check, loads: Sequence[LoadResult]) -> list[str]:
    """Where there was no load, there are no prompts to show."""
    return explain(check, loads[-1]) if loads else [f"SLO violated: {check.sentence()}"]


def _properties(load: LoadResult) -> list[tuple[str, object]]:
    """A few plain figures; all of them are in the run's file."""
    figures: list[tuple[str, object]] = [
        ("comfyload.state", load.state),
        ("comfyload.simulated", str(load.simulated).lower()),
        ("comfyload.seed", load.seed),
        ("comfyload.prompts", len(load.outcomes)),
    ]
    if load.outcomes:
        figures += [
            ("comfyload.success_rate", float(load.success_rate)),
            ("comfyload.throughput", float(load.throughput)),
            ("comfyload.generation_time.p50", float(load.generation_time.p50)),
            ("comfyload.total_time.p95", float(load.total_time.p95)),
        ]
    return figures
