"""`--comfyload-recheck REF`: tests judge stored runs again, instead of running loads; no server is contacted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_comfyload.errors import UsageError

if TYPE_CHECKING:
    from pytest_comfyload.history.index import Row
    from pytest_comfyload.history.provenance import Provenance
    from pytest_comfyload.history.record import Record
    from pytest_comfyload.plugin.baselines import SessionPast
    from pytest_comfyload.result.load_result import LoadResult
    from pytest_comfyload.scenario.scenario import Scenario

__all__ = ["Recheck"]


@dataclass(slots=True)
class Recheck:
    """Stored runs that `ref` names. `provenances`: those of the runs that were returned so far, by run id."""

    ref: str
    provenances: dict[str, Provenance] = field(default_factory=dict)

    def result_of(
        self, scenario: Scenario, title: str, parameters: str, project: Path, past: SessionPast
    ) -> LoadResult:
        """Return the newest stored run of the test with this title and these parameters.

        Raises: UsageError if there is none; StoreError.
        """
        record = past.without_damaged(lambda: self._record(title, parameters, project, past))
        self.provenances[record.run_id] = record.provenance
        load = record.load()
        load.facts = replace(load.facts, notes=(*load.facts.notes, *_notes(record, load, scenario)))
        return load

    def _record(self, title: str, parameters: str, project: Path, past: SessionPast) -> Record:
        """Return the record of that run. Raises: UsageError, StoreError."""
        from pytest_comfyload.history.git import Git
        from pytest_comfyload.history.refs import select

        assert past.store is not None
        named = select(self.ref, past.rows, Git(project))
        row = next((row for row in named if row.series == (title, parameters)), None)
        if row is None:
            raise UsageError(f"{self.ref!r} names no run of {_test(title, parameters)}; it names {_tests(named)}")
        return past.store.load(row)


def _test(title: str, parameters: str) -> str:
    return f"{title} ({parameters})" if parameters and f"[{parameters}]" not in title else title


def _tests(rows: list[Row]) -> str:
    tests = list(dict.fromkeys(_test(*row.series) for row in rows))
    return ", ".join(tests[:3]) + (f" and {len(tests) - 3} more" if len(tests) > 3 else "")


def _notes(record: Record, load: LoadResult, scenario: Scenario) -> Iterator[str]:
    from datetime import UTC, datetime

    measured = datetime.fromtimestamp(record.time, UTC).strftime("%Y-%m-%d %H:%M UTC")
    commit = f" at commit {record.provenance.commit[:12]}" if record.provenance.commit else ""
    yield f"judged again: measured {measured}{commit}; no load was sent"
    if load.facts.scenario != str(scenario):
        yield f"the test's scenario has changed since; it is {scenario} now"
    if differing := list(_differing(record, load)):
        yield f"differ from the measurement, since long series are stored merged: {', '.join(differing)}"


def _differing(record: Record, load: LoadResult) -> Iterator[str]:
    """Yield the figures that differ from those of all samples, by more than 1 % and by more than 0.01 of their unit."""
    from pytest_comfyload.history.index import flat_figures

    now = dict(flat_figures(load.to_dict()))
    for name, measured in flat_figures(record.figures):
        if name in now and not math.isclose(now[name], measured, rel_tol=0.01, abs_tol=0.01):
            yield f"{name} {now[name]:.4g} (was {measured:.4g})"
