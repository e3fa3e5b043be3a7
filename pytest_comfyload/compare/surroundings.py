"""What other series on the same hardware show of its noise: a new test borrows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pytest_comfyload.compare.baseline import Point, baseline_of, head_of
from pytest_comfyload.compare.lineage import Lineage
from pytest_comfyload.compare.metrics import Compared
from pytest_comfyload.compare.sessions import Session
from pytest_comfyload.compare.track import track_of
from pytest_comfyload.history.index import Row
from pytest_comfyload.result.session_noise import OwnNoise

__all__ = ["Surroundings"]

Series = tuple[str, str]


class Surroundings:
    """Of one store's rows, by series. What was reckoned once is kept: each test of a session asks for the others."""

    def __init__(self, rows: Mapping[Series, Sequence[Row]], lineage: Lineage) -> None:
        self._rows = rows
        self._lineage = lineage
        self._on: dict[str, dict[Series, None]] = {}
        for series, each in rows.items():
            for row in each:
                self._on.setdefault(row.hardware, {})[series] = None
        self._known: dict[tuple[object, ...], OwnNoise | None] = {}

    def noises(self, head: Session, point: Point, metric: Compared) -> Iterator[OwnNoise]:
        """By ratio only: differences of one test say nothing of those of another."""
        row = head.newest
        if not metric.scale.relative or not row.hardware:
            return
        for series in self._on.get(row.hardware, ()):
            for theirs in _heads(self._rows[series], row):
                noise = self._noise(theirs, point, metric)
                if noise is not None:
                    yield noise

    def _noise(self, head: Row, point: Point, metric: Compared) -> OwnNoise | None:
        key = (head.run_id, point, metric.name)
        if key not in self._known:
            rows = self._rows[head.series]
            baseline = baseline_of(head_of(head, rows), rows, point, self._lineage)
            self._known[key] = track_of(baseline, metric).noise
        return self._known[key]


def _heads(rows: Sequence[Row], head: Row) -> list[Row]:
    """By environment the newest run in the head's session or before it; none of the head's own series."""
    newest: dict[str, Row] = {}
    for row in rows:
        is_near = row.time < head.time or (row.session is not None and row.session == head.session)
        is_alike = row.hardware == head.hardware and row.simulated == head.simulated
        is_own = (row.series, row.fingerprint) == (head.series, head.fingerprint)
        if is_near and is_alike and not is_own:
            known = newest.get(row.fingerprint)
            if known is None or row.time > known.time:
                newest[row.fingerprint] = row
    return list(newest.values())
