"""Runs from before this session: read from the store once, and passed to each result that a test uses."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_comfyload.errors import BadFile, NoBaseline, UsageError

if TYPE_CHECKING:
    from pytest_comfyload.compare.baseline_runs import BaselineRef
    from pytest_comfyload.compare.commit_graph import CommitGraph
    from pytest_comfyload.compare.comparison import RunComparer, SeriesComparison
    from pytest_comfyload.history.adoption import SessionLock
    from pytest_comfyload.history.index import Row
    from pytest_comfyload.history.provenance import Provenance
    from pytest_comfyload.history.record import Record
    from pytest_comfyload.history.store import Store
    from pytest_comfyload.result.baseline import Baseline, Regressions
    from pytest_comfyload.result.load_result import LoadResult

__all__ = ["RunPast", "SessionIdentity", "SessionPast"]

T = TypeVar("T")


class SessionPast:
    """Stored runs of one project from before this session.

    Args:
        root: The project.
        store: Where runs are stored; None: nowhere.
        point: The REF to compare with; empty: the commit where the branch left its base branch.
        required: A missing baseline is an error.
        asked: The user requested comparisons, so they are also reported for tests without earlier runs.
    """

    def __init__(self, root: Path, store: str | None, point: str, *, required: bool, asked: bool) -> None:
        self._root = root
        self._store = store
        self._point = point
        self.required = required
        self.asked = asked

    @functools.cached_property
    def store(self) -> Store | None:
        """The store; None if no runs are stored. Raises: UsageError, StoreError."""
        from pytest_comfyload.history.store import Store

        return None if self._store is None else Store.open(self._store)

    @functools.cached_property
    def rows(self) -> list[Row]:
        """Runs stored before this session. Raises: UsageError, StoreError."""
        return self.store.runs() if self.store is not None else []

    @functools.cached_property
    def lineage(self) -> CommitGraph:
        from pytest_comfyload.compare.commit_graph import CommitGraph
        from pytest_comfyload.history.git import Git

        return CommitGraph(Git(self._root))

    @functools.cached_property
    def point(self) -> BaselineRef | None:
        """The baseline that the REF names; None for the default. Raises: UsageError, with the existing names."""
        from pytest_comfyload.compare.baseline_runs import point_at

        return point_at(self._point, self.rows, self.lineage) if self._point else None

    def without_damaged(self, work: Callable[[], T]) -> T:
        """Return the result of `work`, which loads runs of `rows`; retry it without the runs that are damaged.

        Raises: StoreError, and anything that `work` raises.
        """
        try:
            return work()
        except BadFile:
            assert self.store is not None
            self.store.find_damaged()
            self.rows = self.store.runs()
            return work()

    def expect_comparable(self) -> None:
        """Check before a load that the REF names a run. Raises: UsageError."""
        _ = self.point

    def bench(self, rows: list[Row], record_of: Callable[[Row], Record]) -> RunComparer:
        """Return the comparer of these runs. Raises: UsageError if the file of accepted changes cannot be read."""
        from pytest_comfyload.compare.acceptance import read_acceptances
        from pytest_comfyload.compare.comparison import RunComparer
        from pytest_comfyload.history.git import Git

        return RunComparer(rows, record_of, self.lineage, read_acceptances(Git(self._root).root))


@dataclass(slots=True)
class RunPast:
    """Comparison of one run with earlier runs.

    `rerun` runs the same load again, given the number of the rerun, starting at 1; None if it cannot be rerun.
    `again`: the results of the reruns so far.
    """

    session: SessionPast
    load: LoadResult
    provenance: Provenance
    rerun: Callable[[int], LoadResult] | None
    say: Callable[[str], None]
    again: list[LoadResult] = field(default_factory=list)

    def baseline(self) -> Baseline:
        """Return the baseline; its figures raise NoBaseline if required and missing. Raises: UsageError, StoreError."""
        from pytest_comfyload.result.baseline import Baseline

        (compared,) = self._compared(self.load.facts.all_gates[:1], None)
        rows, why = [row for session in compared.level for row in session.rows], ""
        if not rows:
            why = compared.refused or f"no comparable run at or before {compared.baseline.point.name} is in the store"
            why = "; ".join((why.rstrip("."), *self.provenance.notes))
        return Baseline([row.figures for row in rows], why, required=self.session.required)

    def regressions(self, of: Sequence[str], min_effect: float | None) -> Regressions:
        """Compare with earlier runs, with two reruns at a time until every verdict is settled or a limit is reached.

        Raises: NoBaseline if a baseline is required and missing; UsageError; StoreError.
        """
        from pytest_comfyload.metrics.regression import MOST_RERUNS, RERUNS
        from pytest_comfyload.result.baseline import Regressions

        _expect_one_kind(of, min_effect)
        found = self._compared(of, min_effect)
        while self.rerun is not None and len(self.again) < MOST_RERUNS:
            first = next((each for each in found if each.gate.comparison.rerun), None)
            if first is None:
                break
            so_far = f"{first.gate.metric.title} {first.sentence()}"
            self.say(f"comfyload: {first.test}: {so_far} Running it {RERUNS} more times.")
            number = len(self.again) + 1
            self.again += [self.rerun(each) for each in range(number, number + RERUNS)]
            found = self._compared(of, min_effect)
        unjudged = [self._unjudged(each) for each in found if not each.is_judged]
        if self.session.required and unjudged:
            raise NoBaseline("\n".join(unjudged))
        told = [_with_cause(each) for each in found]
        return Regressions.of([said for said, each in zip(told, found, strict=True) if each.fails], told, unjudged)

    def _unjudged(self, compared: SeriesComparison) -> str:
        from pytest_comfyload.metrics.regression import FEWEST

        sessions = compared.gate.comparison.baseline
        few = f" Baseline sessions: {sessions}; a failure needs {FEWEST}." if 0 < sessions < FEWEST else ""
        sentence = f"no baseline to judge {compared.gate.metric.title} by: {compared.sentence()}{few}"
        return "\n".join((sentence, *self.provenance.notes))

    def _compared(self, gates: Sequence[str], min_effect: float | None) -> list[SeriesComparison]:
        return self.session.without_damaged(lambda: self._judged(gates, min_effect))

    def _judged(self, gates: Sequence[str], min_effect: float | None) -> list[SeriesComparison]:
        records = {load.facts.run_id: self._record(load) for load in (self.load, *self.again)}
        rows = [self._row(record) for record in records.values()]

        def record_of(row: Row) -> Record:
            store = self.session.store
            known = records.get(row.run_id)
            if known is not None:
                return known
            assert store is not None
            return store.load(row)

        bench = self.session.bench([*self._others(rows[0]), *rows], record_of)
        return [bench.judge(rows[0], self.session.point, gate=gate, least_effect=min_effect) for gate in gates]

    def _others(self, row: Row) -> list[Row]:
        """Return the other stored runs; a run that is judged again is itself in the store."""
        return [each for each in self.session.rows if each.run_id != row.run_id]

    def _record(self, load: LoadResult) -> Record:
        from pytest_comfyload.history.record import record_of

        return record_of(load, self.provenance)

    def _row(self, record: Record) -> Row:
        from pytest_comfyload.history.index import row_of
        from pytest_comfyload.history.store import file_name

        return row_of(file_name(record), record)


def _expect_one_kind(gates: Sequence[str], min_effect: float | None) -> None:
    """Check that `min_effect` has one unit. Raises: UsageError if it is percent for one figure, seconds for another."""
    from pytest_comfyload.metrics.comparable import compared

    figures = [compared(gate) for gate in gates]
    units = {"%" if each.scale.relative else each.unit: each.title for each in figures}
    if min_effect is not None and len(units) > 1:
        kinds = " and ".join(f"{unit} of {title}" for unit, title in units.items())
        raise UsageError(f"min_effect={min_effect!r} would be {kinds}; call regressions(of=…) for each by itself")


def _with_cause(compared: SeriesComparison) -> str:
    """Return the verdict as text, and for a failure what was changed."""
    causes = (*compared.nodes[:1], *compared.subject[:3])
    cause = f" {'; '.join(causes)}." if causes and compared.fails else ""
    verdict = "gradually slower" if compared.creep is not None and compared.creep.fails else compared.verdict
    name = compared.baseline.point.name
    return f"{verdict} against {name}: {compared.gate.metric.title} {compared.sentence()}{cause}"


class SessionIdentity:
    """Identity of a session: `name`, provenance and lock. Under xdist, workers have the controller's name."""

    def __init__(self, label: str, name: str | None = None) -> None:
        self.name = name or f"comfyload-{secrets.token_hex(8)}"
        self._label = label
        self._lock: SessionLock | None = None
        # Determined once per project: what is committed during a session is not the code that runs.
        self.provenance_of = functools.cache(self._provenance_of)

    def header(self, project: Path, *, kept: bool) -> dict[str, Any]:
        """Return the spool header of a run in `project`; for a run that is not kept, it names only the owner."""
        from pytest_comfyload.history.adoption import header_of

        return header_of(self.name, self.provenance_of(project) if kept else None, project)

    def _provenance_of(self, project: Path) -> Provenance:
        from pytest_comfyload.history.provenance import provenance_of

        return provenance_of(project, self._label, session=self.name)

    def hold(self, root: Path, process: str) -> None:
        """Lock the session, so that other sessions see that it is running and leave its spools below `root` alone."""
        from pytest_comfyload.history.adoption import SessionLock
        from pytest_comfyload.history.spool import spool_folder

        if self._lock is None:
            self._lock = SessionLock(self.name, spool_folder(root), process)
            self._lock.acquire()

    def release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None
