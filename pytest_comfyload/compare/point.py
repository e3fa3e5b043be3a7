"""Where in history a REF is: a commit, as git or the runs know it, or just the runs that have that name."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_comfyload.compare.baseline import Point
from pytest_comfyload.compare.lineage import Lineage
from pytest_comfyload.errors import UsageError
from pytest_comfyload.history.index import Row
from pytest_comfyload.history.refs import select

__all__ = ["point_at", "runs_at"]


def point_at(ref: str, rows: Sequence[Row], lineage: Lineage) -> Point:
    """Raises: UsageError, with the names that there are."""
    labelled = frozenset(row.run_id for row in rows if row.label == ref)
    if labelled:
        return Point(f"label {ref}", None, 0.0, labelled)
    commit, named = lineage.commit(ref), _named(ref, rows, lineage)
    newest = max(named, key=lambda row: row.time, default=None)
    commit = commit or (newest.commit if newest is not None else None)
    if commit is None:
        return Point(ref, None, 0.0, frozenset(row.run_id for row in named))
    # Runs of that very commit count; where git cannot tell what was before it, so does what was measured before them.
    return Point(ref, commit, newest.time + 1.0 if newest is not None else 0.0)


def runs_at(point: Point, rows: Sequence[Row]) -> list[Row]:
    """Of that very commit, or those that were named."""
    if point.runs is not None:
        return [row for row in rows if row.run_id in point.runs]
    return [row for row in rows if row.commit == point.commit]


def _named(ref: str, rows: Sequence[Row], lineage: Lineage) -> list[Row]:
    try:
        return select(ref, rows)
    except UsageError:
        if lineage.commit(ref) is None:
            raise
        return []
