"""At the end of a session its runs go from their spools to the store, and so do those of sessions that were killed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_comfyload.errors import ComfyloadError
from pytest_comfyload.plugin.session import LoadSession
from pytest_comfyload.plugin.summaries import SummaryCollector

if TYPE_CHECKING:
    from pytest_comfyload.compare.comparing import SeriesComparison
    from pytest_comfyload.history.index import Row
    from pytest_comfyload.history.record import TestChecks
    from pytest_comfyload.history.store import Store

__all__ = ["KEEPER", "Keeper"]

# In the report of a session, the newest.
MOST_COMMITS = 1000


class Keeper:
    """Registered as a plugin of its own in every process but xdist's workers.

    `lines` are for the summary; `comparisons` are those of this session's tests with the runs before.
    """

    def __init__(self, session: LoadSession, collector: SummaryCollector) -> None:
        self.lines: list[str] = []
        self.comparisons: list[SeriesComparison] = []
        self._session = session
        self._collector = collector

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        # Last: by now xdist's workers have ended, and with them their runs.
        spools = self._session.project / ".comfyload" / "spool"
        if session.config.option.collectonly or not spools.is_dir():
            return
        self.lines += self._interrupted()
        if self._session.settings.store is None:
            self._drop(spools)
        elif any(spools.glob("*.jsonl")):
            self._keep(spools)

    def _interrupted(self) -> Iterator[str]:
        unfinished = self._session.unfinished_spools()
        if unfinished:
            from pytest_comfyload.report.interrupted import interrupted_lines

            for spool in unfinished:
                yield from interrupted_lines(spool)

    def _drop(self, spools: Path) -> None:
        from pytest_comfyload.history.spool import drop_oldest

        drop_oldest(spools)

    def _keep(self, spools: Path) -> None:
        from pytest_comfyload.history.adoption import adoptable

        by_project: dict[Path, list[Path]] = {}
        for spool in adoptable(spools, self._session.origin.name):
            by_project.setdefault(self._project_of(spool), []).append(spool)
        stores = [self._keep_at(project, found) for project, found in by_project.items()]
        if store := next(filter(None, stores), None):
            self._report(store)

    def _project_of(self, spool: Path) -> Path:
        from pytest_comfyload.history.spool import read_header

        named = Path(str(read_header(spool).get("project")))
        return named if named.is_absolute() and named.is_dir() else self._session.project

    def _keep_at(self, project: Path, spools: Sequence[Path]) -> Store | None:
        """Return the store that took runs of a project."""
        from pytest_comfyload.history.store import Store

        try:
            store = Store.open(str(self._session.settings.store_of(project)))
            kept = {spool.stem for spool in spools if self._adopt(spool, store)}
        except ComfyloadError as error:
            self.lines.append(f"not kept: {error}; the next session tries again")
            return None
        if not kept:
            return None
        # The halves of an A/B comparison are judged against each other, and no test looks at one by itself.
        looked_at = {run["run_id"] for summary in self._collector.summaries for run in summary.runs}
        self._compare(project, store, looked_at & kept)
        plural = "1 run is" if len(kept) == 1 else f"{len(kept)} runs are"
        self.lines.append(f"{plural} kept in {self._shown(store)}; `comfyload history` lists them")
        return store

    def _report(self, store: Store) -> None:
        path = self._session.settings.html
        if path is None:
            return
        from pytest_comfyload.report.html.content import Content
        from pytest_comfyload.report.html.single import write_single

        try:
            write_single(Content(store, self._session.project, limit=MOST_COMMITS), path)
        except (ComfyloadError, OSError) as error:
            self.lines.append(f"no HTML report: {error}")
        else:
            self.lines.append(f"HTML report: {path}")

    def _compare(self, project: Path, store: Store, kept: set[str]) -> None:
        """The newest run of each test of this session with the runs before."""
        from pytest_comfyload.history.record import INCOMPLETE
        from pytest_comfyload.report.comparisons import comparison_lines

        past = self._session.past(project)
        compared: list[SeriesComparison] = []
        try:
            rows = store.runs()
            bench = past.bench(rows, store.load)
            ours = [row for row in rows if row.run_id in kept and row.state != INCOMPLETE]
            for head in _heads(ours):
                compared.append(bench.judge(head, past.point))
        except ComfyloadError as error:
            self.lines.append(f"not compared with the runs before: {error}")
        self.comparisons += compared
        self.lines += comparison_lines(compared, brief=not past.asked)

    def _adopt(self, spool: Path, store: Store) -> bool:
        """Raises: StoreError."""
        from pytest_comfyload.history.adoption import adopt

        try:
            adopt(spool, store, self._checks(spool.stem))
        except (ValueError, OSError) as error:
            # Of another version of this plugin; or another session was quicker.
            self.lines.append(f"not kept: {spool.name}: {error}")
            return False
        return True

    def _checks(self, run_id: str) -> Iterator[TestChecks]:
        """Of every test that looked at the run. A check does not say of which run it is, where a test made several."""
        from pytest_comfyload.history.record import TestChecks

        for summary in self._collector.summaries:
            if summary.checks and any(run["run_id"] == run_id for run in summary.runs):
                yield TestChecks(summary.nodeid, summary.checks)

    def _shown(self, store: Store) -> str:
        path, root = Path(str(store)), self._session.project
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(store)


def _heads(rows: Iterable[Row]) -> Iterable[Row]:
    """Of each test and environment the newest run, a valid one if there is any."""
    ordered = sorted(rows, key=lambda row: (row.state == "valid", row.time))
    return {(row.series, row.fingerprint): row for row in ordered}.values()


KEEPER = pytest.StashKey[Keeper]()
