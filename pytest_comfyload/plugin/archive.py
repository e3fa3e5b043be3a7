"""Archiving at the end of a session: its runs move from spools to the store, as do those of killed sessions."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_comfyload.history.location import shown_from
from pytest_comfyload.metrics.units import counted
from pytest_comfyload.plugin.benchmark import BenchmarkMirror
from pytest_comfyload.plugin.project import may_have_spools
from pytest_comfyload.plugin.session import SESSION, LoadSession
from pytest_comfyload.plugin.termination import contained

if TYPE_CHECKING:
    from pytest_comfyload.compare.comparison import SeriesComparison
    from pytest_comfyload.history.adoption import Adopted
    from pytest_comfyload.history.index import Row
    from pytest_comfyload.history.record import TestChecks
    from pytest_comfyload.history.store import Store
    from pytest_comfyload.report.html.content import Content
    from pytest_comfyload.report.slo_table import TestSummary

__all__ = ["RunArchiver", "SummaryCollector"]

# The newest commits, which the report of a session shows.
MOST_COMMITS = 1000


class RunArchiver:
    """Plugin that stores the runs of a session; registered in every process except xdist workers.

    `lines` are for the summary. `comparisons` compare this session's tests with earlier runs; `notes` say what
    prevented or limited them.
    """

    def __init__(self, session: LoadSession, collector: SummaryCollector) -> None:
        self.lines: list[str] = []
        self.notes: list[str] = []
        self.comparisons: list[SeriesComparison] = []
        self._kept: tuple[Store, Path] | None = None
        self._content: Content | None = None
        self._session = session
        self._collector = collector

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        # Last: by now xdist's workers, and so their runs, have finished.
        if session.config.option.collectonly:
            return
        for store in self._session.stores_read():
            self._name_skipped(store)
        if not self.has_spools():
            return
        with contained("the runs of this session are not kept", self.lines.append):
            self.lines += self._interrupted()
            if self._session.settings.store is None:
                self._drop()
            else:
                self._keep()

    def has_spools(self) -> bool:
        """Return whether there may be spools; cheap if no load ran."""
        if self._collector.summaries or self._session.sharing.unfinished():
            return True
        return may_have_spools(self._session.project)

    def _interrupted(self) -> Iterator[str]:
        unfinished = self._session.sharing.unfinished()
        if unfinished:
            from pytest_comfyload.report.terminal import interrupted_lines

            for spool in unfinished:
                yield from interrupted_lines(spool)

    def _drop(self) -> None:
        from pytest_comfyload.history.spool import drop_oldest, spool_folders

        for folder in spool_folders(self._session.home):
            drop_oldest(folder)

    def _keep(self) -> None:
        from pytest_comfyload.history.adoption import adopt_all

        session = self._session
        adopted = adopt_all(
            session.home,
            session.origin.name,
            lambda project: str(session.settings.store_of(project)),
            self.lines.append,
            self._checks,
        )
        found = [each for each in adopted if each.kept]
        self._kept = (found[0].store, found[0].project) if found else None
        for each in found:
            self._tell(each)
        if found:
            self._report(found[0].store)

    @property
    def content(self) -> Content | None:
        """Content of a report of the store; None if no run of this session was stored."""
        if self._content is None and self._kept is not None:
            store, project = self._kept
            with contained("the summary for CI has no overview of the runs", self.lines.append):
                self._content = store.without_damaged(lambda: _content_of(store, project))
        return self._content

    def _tell(self, adopted: Adopted) -> None:
        kept, store = adopted.kept, adopted.store
        # The halves of an A/B comparison are judged against each other, and no test uses one alone.
        looked_at = (run["run_id"] for summary in self._collector.summaries for run in summary.runs)
        ours = [run_id for run_id in looked_at if run_id in kept]
        with contained("not compared with the runs before", self.lines.append):
            store.without_damaged(lambda: self._compare(adopted.project, store, ours))
        self._name_skipped(store)
        if self._session.screen.verbosity >= 0:
            self.lines.append(
                f"{counted(len(kept), 'run')} stored in {self._shown(store)}; `comfyload history` lists all"
            )

    def _name_skipped(self, store: Store) -> None:
        self.lines += [f"skipped: {line}" for line in store.set_aside()]

    def _report(self, store: Store) -> None:
        path = self._session.settings.html
        if path is None:
            return
        from pytest_comfyload.report.html.content import Content
        from pytest_comfyload.report.html.write import write_single

        def write() -> None:
            write_single(Content(store, self._session.project, limit=MOST_COMMITS), path)

        with contained("no HTML report", self.lines.append):
            store.without_damaged(write)
            self.lines.append(f"HTML report: {path}")
        self._name_skipped(store)

    def _compare(self, project: Path, store: Store, kept: Sequence[str]) -> None:
        """Compare the newest run of each test of this session with earlier runs, in the order of `kept`."""
        from pytest_comfyload.history.record import INCOMPLETE
        from pytest_comfyload.report.comparisons import comparison_lines

        past = self._session.past(project)
        rows = store.runs()
        bench = past.bench(rows, store.load)
        ours = sorted(
            (row for row in rows if row.run_id in kept and row.state != INCOMPLETE),
            key=lambda row: kept.index(row.run_id),
        )
        compared = [each for head in _heads(ours) for each in bench.judge_each(head, past.point)]
        self.comparisons += compared
        self.lines += comparison_lines(compared, brief=not past.asked, verbosity=self._session.screen.verbosity)
        self._explain(project, compared)

    def _explain(self, project: Path, compared: Iterable[SeriesComparison]) -> None:
        """Report why git does not know the whole history, if that prevents a verdict."""
        if any(not each.is_judged or each.baseline.notes for each in compared):
            self.notes += self._session.origin.provenance_of(project).notes
            if self._session.screen.verbosity >= 0:
                self.lines += [f"note: {note}" for note in self._session.origin.provenance_of(project).notes]

    def _checks(self, run_id: str) -> Iterator[TestChecks]:
        """Yield the checks of every test that used the run.

        If a test made several runs, its checks do not say which one they belong to.
        """
        from pytest_comfyload.history.record import TestChecks

        for summary in self._collector.summaries:
            if (summary.checks or summary.unreached) and any(run["run_id"] == run_id for run in summary.runs):
                yield TestChecks(summary.nodeid, summary.checks, summary.unreached)

    def _shown(self, store: Store) -> str:
        return shown_from(str(store), self._session.started)


def _heads(rows: Iterable[Row]) -> Iterable[Row]:
    """Return the newest run of each test and environment, preferring valid runs, in the order of `rows`."""
    heads: dict[object, Row] = {}
    for row in rows:
        other = heads.setdefault((row.series, row.fingerprint), row)
        if (row.state == "valid", row.time) > (other.state == "valid", other.time):
            heads[row.series, row.fingerprint] = row
    return heads.values()


def _content_of(store: Store, project: Path) -> Content:
    """Return the content of a report, with its overview. Raises: BadFile if a run that it needs is damaged."""
    from pytest_comfyload.report.html.content import Content

    content = Content(store, project, limit=MOST_COMMITS)
    _ = content.overview
    return content


class SummaryCollector:
    """Plugin that collects test summaries; registered in every process except xdist workers."""

    def __init__(self, config: pytest.Config) -> None:
        self.summaries: list[TestSummary] = []
        self._config = config
        self._notes: list[str] = []
        # Collection order of the tests: under xdist they finish in any order.
        self._places: dict[str, int] = {}

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        for nodeid in ids:
            self._places.setdefault(nodeid, len(self._places))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Sort the summaries by collection order, regardless of which worker was faster."""
        self.summaries.sort(key=lambda summary: self._places.get(summary.nodeid, len(self._places)))

    @functools.cached_property
    def mirror(self) -> BenchmarkMirror | None:
        """Mirror in pytest-benchmark, created at the first result, since pytest-benchmark is configured last."""
        session = self._config.stash[SESSION]
        if session.recheck is not None:
            return None
        return BenchmarkMirror.of(self._config, session.settings.benchmark_mirror, session.project)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not hasattr(report, "comfyload"):
            return
        from pytest_comfyload.plugin.report_data import detach

        summary = detach(report)
        if summary is not None:
            self.summaries.append(summary)
            # Only the last of several attempts is a result; pytest-rerunfailures marks the others.
            if str(report.outcome) != "rerun":
                with contained("pytest-benchmark does not get all loads", self._notes.append):
                    self._mirror(summary)

    def _mirror(self, summary: TestSummary) -> None:
        if self.mirror is not None:
            for run in summary.runs:
                self.mirror.add(run)

    def notes(self) -> list[str]:
        """Return the lines of the summary other than the results."""
        unmatched = self.mirror.unmatched() if self.mirror is not None else []
        unsaved = [f"note: --benchmark-compare has nothing saved to compare with {name}" for name in unmatched]
        dead = {f"warning: {each.dead_asserts}": None for each in self.summaries if each.dead_asserts}
        return [*self._notes, *unsaved, *dead]
