"""The noise that other series on the same hardware show: a new test borrows it."""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import structs

from pytest_comfyload.compare.acceptance import Acceptance, accepted_at
from pytest_comfyload.compare.baseline_runs import BaselineRef, Baselines, Series
from pytest_comfyload.compare.commit_graph import CommitGraph
from pytest_comfyload.compare.drift import newest_track_of
from pytest_comfyload.compare.sessions import Session
from pytest_comfyload.history.index import Row
from pytest_comfyload.metrics.comparable import ComparedFigure
from pytest_comfyload.metrics.session_noise import OwnNoise

__all__ = ["Surroundings"]

# The hardware, and whether it was simulated.
_Hardware = tuple[str, bool]


class Surroundings:
    """The other series of one store; noise is cached, since each test of a session needs that of the others."""

    def __init__(
        self,
        rows: Mapping[Series, Sequence[Row]],
        baselines: Baselines,
        lineage: CommitGraph,
        acceptances: Sequence[Acceptance] = (),
    ) -> None:
        self._baselines = baselines
        self._lineage = lineage
        self._acceptances = acceptances
        self._environments = {series: _by_environment(each) for series, each in rows.items()}
        self._on: dict[str, dict[Series, None]] = {}
        for series, each in rows.items():
            for row in each:
                self._on.setdefault(row.hardware, {})[series] = None
        self._known: dict[tuple[object, ...], OwnNoise | None] = {}

    def noises(self, head: Session, point: BaselineRef, metric: ComparedFigure) -> Iterator[OwnNoise]:
        """Yield the noise of other tests, for ratios only: differences in one test say nothing about another."""
        row = head.newest
        if not metric.scale.relative or not row.hardware:
            return
        for series in self._on.get(row.hardware, ()):
            for theirs in _in_place_of(row, self._environments[series]):
                noise = self._noise(theirs, point, metric)
                if noise is not None:
                    yield noise

    def _noise(self, head: Row, point: BaselineRef, metric: ComparedFigure) -> OwnNoise | None:
        key = (head.series, head.fingerprint, head.session or head.time, head.commit, point, metric.name)
        if key not in self._known:
            session = Session((head,))
            baseline = self._baselines.of(session, point)
            _, before = accepted_at(session, baseline.history, self._acceptances, self._lineage)
            baseline = dataclasses.replace(baseline, accepted=before)
            self._known[key] = newest_track_of(baseline, metric).noise
        return self._known[key]


def _by_environment(rows: Iterable[Row]) -> Mapping[_Hardware, Mapping[str, Sequence[Row]]]:
    """Group the rows of a series by hardware and environment, each group oldest first."""
    found: dict[_Hardware, dict[str, list[Row]]] = {}
    for row in sorted(rows, key=_time_of):
        found.setdefault((row.hardware, row.simulated), {}).setdefault(row.fingerprint, []).append(row)
    return found


def _time_of(row: Row) -> float:
    return row.time


def _in_place_of(head: Row, environments: Mapping[_Hardware, Mapping[str, Sequence[Row]]]) -> Iterator[Row]:
    """Yield the head as if it were of this series, in each environment but its own."""
    for fingerprint, rows in environments.get((head.hardware, head.simulated), {}).items():
        place = bisect_right(rows, head.time, key=_time_of)
        if place and fingerprint != head.fingerprint:
            row = rows[place - 1]
            yield structs.replace(
                head, run_id="", test=row.test, parameters=row.parameters, fingerprint=fingerprint, inputs=row.inputs
            )
