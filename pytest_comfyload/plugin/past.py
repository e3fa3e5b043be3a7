"""The runs before those of this session: read from the store once, and given to each result that a test looks at."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_comfyload.errors import NoBaseline

if TYPE_CHECKING:
    from pytest_comfyload.compare.baseline import Point
    from pytest_comfyload.compare.comparing import Bench, SeriesComparison
    from pytest_comfyload.compare.lineage import Lineage
    from pytest_comfyload.history.index import Row
    from pytest_comfyload.history.provenance import Provenance
    from pytest_comfyload.history.record import Record
    from pytest_comfyload.history.store import Store
    from pytest_comfyload.result.load_result import LoadResult
    from pytest_comfyload.result.past import Baseline, Regressions

__all__ = ["RunPast", "SessionPast"]


class SessionPast:
    """`store` None: no runs are kept. `point`: the REF to compare with; empty: where the branch leaves its base."""

    def __init__(self, root: Path, store: str | None, point: str, *, required: bool) -> None:
        self._root = root
        self._store = store
        self._point = point
        self.required = required
        # Whoever says what to compare with wants to hear of each test.
        self.asked = bool(point) or required

    @functools.cached_property
    def store(self) -> Store | None:
        """Raises: UsageError, StoreError."""
        from pytest_comfyload.history.store import Store

        return None if self._store is None else Store.open(self._store)

    @functools.cached_property
    def rows(self) -> list[Row]:
        """What was kept before this session. Raises: UsageError, StoreError."""
        return self.store.runs() if self.store is not None else []

    @functools.cached_property
    def lineage(self) -> Lineage:
        from pytest_comfyload.compare.lineage import Lineage
        from pytest_comfyload.history.git import Git

        return Lineage(Git(self._root))

    @functools.cached_property
    def point(self) -> Point | None:
        """Raises: UsageError, with the names that there are."""
        from pytest_comfyload.compare.point import point_at

        return point_at(self._point, self.rows, self.lineage) if self._point else None

    def expect_comparable(self, gate: str) -> None:
        """Before a load. Raises: UsageError for a figure or a REF that cannot be compared."""
        from pytest_comfyload.compare.metrics import compared

        compared(gate)
        _ = self.point

    def bench(self, rows: list[Row], record_of: Callable[[Row], Record]) -> Bench:
        """Raises: UsageError for a file with people's decisions that cannot be read."""
        from pytest_comfyload.compare.acceptance import read_acceptances
        from pytest_comfyload.compare.comparing import Bench
        from pytest_comfyload.history.git import Git

        return Bench(rows, record_of, self.lineage, read_acceptances(Git(self._root).root))


@dataclass(slots=True)
class RunPast:
    """Of one run. `rerun` runs the same load again, for the first, second … time; None where it cannot."""

    session: SessionPast
    load: LoadResult
    provenance: Provenance
    rerun: Callable[[int], LoadResult] | None
    say: Callable[[str], None]
    _again: list[LoadResult] = field(default_factory=list)

    def baseline(self) -> Baseline:
        """Raises: NoBaseline where one is required, UsageError, StoreError."""
        from pytest_comfyload.result.past import Baseline

        compared = self._compared(self.load.facts.gate, None)
        rows, why = [row for session in compared.level for row in session.rows], ""
        if not rows:
            why = compared.refused or f"no comparable run at or before {compared.baseline.point.name} is in the store"
        return Baseline([row.figures for row in rows], why.rstrip("."), required=self.session.required)

    def regressions(self, of: str | None, min_effect: float | None) -> Regressions:
        """With reruns, two at a time, until it is decided. Raises: as `baseline`."""
        from pytest_comfyload.result.past import Regressions
        from pytest_comfyload.result.regression import MOST_RERUNS, RERUNS

        gate = of or self.load.facts.gate
        compared = self._compared(gate, min_effect)
        while compared.gate.comparison.rerun and self.rerun is not None and len(self._again) < MOST_RERUNS:
            self.say(f"comfyload: {compared.test}: {compared.sentence()} Running it {RERUNS} more times.")
            first = len(self._again) + 1
            self._again += [self.rerun(number) for number in range(first, first + RERUNS)]
            compared = self._compared(gate, min_effect)
        if self.session.required and not compared.baseline.rows:
            raise NoBaseline(f"a baseline is required, and there is none: {compared.sentence()}")
        sentence = _with_cause(compared)
        return Regressions.of([sentence] if compared.fails else [], [sentence])

    def _compared(self, gate: str, min_effect: float | None) -> SeriesComparison:
        records = {load.facts.run_id: self._record(load) for load in (self.load, *self._again)}
        rows = [self._row(record) for record in records.values()]

        def record_of(row: Row) -> Record:
            store = self.session.store
            known = records.get(row.run_id)
            if known is not None:
                return known
            assert store is not None
            return store.load(row)

        bench = self.session.bench([*self._others(rows[0]), *rows], record_of)
        return bench.judge(rows[0], self.session.point, gate=gate, least_effect=min_effect)

    def _others(self, row: Row) -> list[Row]:
        """What was kept besides; a run that is judged again is in the store itself."""
        return [each for each in self.session.rows if each.run_id != row.run_id]

    def _record(self, load: LoadResult) -> Record:
        from pytest_comfyload.history.record import record_of

        return record_of(load, self.provenance)

    def _row(self, record: Record) -> Row:
        from pytest_comfyload.history.index import row_of
        from pytest_comfyload.history.store import file_name

        return row_of(file_name(record), record)


def _with_cause(compared: SeriesComparison) -> str:
    """The verdict, and what was changed."""
    causes = (*compared.nodes[:1], *compared.subject[:3])
    cause = f" {'; '.join(causes)}." if causes and compared.fails else ""
    verdict = "slower bit by bit" if compared.creep is not None and compared.creep.fails else compared.verdict
    name = compared.baseline.point.name
    return f"{verdict} against {name}: {compared.gate.metric.name} {compared.sentence()}{cause}"
