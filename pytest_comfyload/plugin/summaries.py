"""The controller's collector: what tests report of their loads arrives here, from this process or an xdist worker."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest

from pytest_comfyload.plugin.benchmark_mirror import BenchmarkMirror
from pytest_comfyload.plugin.session import SESSION
from pytest_comfyload.plugin.termination import contained

if TYPE_CHECKING:
    from pytest_comfyload.report.slo_table import TestSummary

__all__ = ["SUMMARIES", "SummaryCollector"]


class SummaryCollector:
    """Registered as a plugin of its own in every process but xdist's workers."""

    def __init__(self, config: pytest.Config) -> None:
        self.summaries: list[TestSummary] = []
        self._config = config
        self._notes: list[str] = []

    @functools.cached_property
    def mirror(self) -> BenchmarkMirror | None:
        """Made at the first result: pytest-benchmark is the last to be configured."""
        session = self._config.stash[SESSION]
        if session.recheck is not None:
            return None
        return BenchmarkMirror.of(self._config, session.settings.benchmark_mirror, session.project)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not hasattr(report, "comfyload"):
            return
        from pytest_comfyload.plugin.wire import detach

        summary = detach(report)
        if summary is not None:
            self.summaries.append(summary)
            # Of several attempts only the last is a result; pytest-rerunfailures marks the others.
            if str(report.outcome) != "rerun":
                with contained("pytest-benchmark does not get all loads", self._notes.append):
                    self._mirror(summary)

    def _mirror(self, summary: TestSummary) -> None:
        if self.mirror is not None:
            for run in summary.runs:
                self.mirror.add(run)

    def notes(self) -> list[str]:
        """What the summary says besides the results."""
        unmatched = self.mirror.unmatched() if self.mirror is not None else []
        unsaved = [f"note: --benchmark-compare has nothing saved to compare with {name}" for name in unmatched]
        dead = {f"warning: {each.dead_asserts}": None for each in self.summaries if each.dead_asserts}
        return [*self._notes, *unsaved, *dead]


SUMMARIES = pytest.StashKey[SummaryCollector]()
