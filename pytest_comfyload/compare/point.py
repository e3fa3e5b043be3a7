"""Where in history a REF is: a commit, as git or the runs know it, a time, or just the runs that have that name."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pytest_comfyload.compare.baseline import Point
from pytest_comfyload.compare.lineage import Lineage
from pytest_comfyload.history.index import Row
from pytest_comfyload.history.refs import is_time, select

__all__ = ["point_at", "runs_at"]


def point_at(ref: str, rows: Sequence[Row], lineage: Lineage) -> Point:
    """Raises: UsageError, with the names that there are."""
    labelled = frozenset(row.run_id for row in rows if row.label == ref)
    if labelled:
        return Point(f"label {ref}", None, math.inf, labelled, named=True)
    commit = None if is_time(ref) else lineage.commit(ref)
    if commit is not None:
        return Point(ref, commit, math.inf, named=True)
    named = select(ref, rows)
    newest = max(named, key=lambda row: row.time)
    # A time, or a name that only runs have: they count, and what was measured before them.
    return Point(ref, newest.commit, newest.time + 1.0, named=True)


def runs_at(point: Point, rows: Sequence[Row]) -> list[Row]:
    """Of that very commit, or those that were named."""
    if point.runs is not None:
        return [row for row in rows if row.run_id in point.runs]
    return [row for row in rows if row.commit == point.commit]
