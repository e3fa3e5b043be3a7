"""The controller's collector: what tests report of their loads arrives here, from this process or an xdist worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_comfyload.report.summary import TestSummary

__all__ = ["SUMMARIES", "SummaryCollector"]


class SummaryCollector:
    """Registered as a plugin of its own in every process but xdist's workers."""

    def __init__(self) -> None:
        self.summaries: list[TestSummary] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not hasattr(report, "comfyload"):
            return
        from pytest_comfyload.plugin.wire import detach

        summary = detach(report)
        if summary is not None:
            self.summaries.append(summary)


SUMMARIES = pytest.StashKey[SummaryCollector]()
