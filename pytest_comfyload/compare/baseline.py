"""The earlier runs that a commit is held against: comparable, valid, of committed code, at or before one commit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_comfyload.compare.lineage import Lineage
from pytest_comfyload.history.index import Row
from pytest_comfyload.result.regression import NEWEST

__all__ = ["Baseline", "Point", "baseline_of", "default_point", "runs_of"]

# With more failures than this, the times of the other prompts say too little.
LEAST_SUCCESS = 95.0
# Percent of the time for which heat or a fault may have held the clocks down.
MOST_THROTTLED = 1.0
_THROTTLED = "gpu.throttled.reasons."
# A card that is fully used works at its power limit: that is its speed, and no mishap.
_USUAL = f"{_THROTTLED}sw_power_cap"


@dataclass(frozen=True, slots=True)
class Point:
    """A place in history, `name` for a person; `commit` None: before `time`, seconds since 1970.

    `runs`: these and no others, where somebody has named runs rather than a place.
    """

    name: str
    commit: str | None
    time: float
    runs: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Baseline:
    """`rows`: oldest first, 20 at most. `elsewhere`: the newest run of the test that another environment keeps out."""

    point: Point
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    elsewhere: Row | None = None


def runs_of(head: Row, rows: Sequence[Row]) -> tuple[Row, ...]:
    """The newest run and those that measured the same, oldest first: the same commit, by the same label.

    Uncommitted changes are only its own.
    """
    if head.commit is None or head.dirty:
        return (head,)
    same = [
        row
        for row in rows
        if (row.commit, row.label, row.state) == (head.commit, head.label, head.state)
        and not row.dirty
        and _comparable(row, head)
    ]
    return tuple(_by_time(same))[-NEWEST:] or (head,)


def default_point(head: Row, lineage: Lineage) -> Point:
    """Where its branch leaves the base branch; on that branch itself, the commit before."""
    if head.merge_base and head.merge_base != head.commit:
        branch = f" of {head.base}" if head.base else ""
        return Point(f"the merge-base {head.merge_base[:10]}{branch}", head.merge_base, head.time)
    if head.commit and head.dirty:
        return Point(f"commit {head.commit[:10]}, which it changes", head.commit, head.time)
    before = lineage.commit(f"{head.commit}^") if head.commit else None
    if before:
        return Point(f"the commit before, {before[:10]}", before, head.time)
    return Point("the runs before it", None, head.time)


def baseline_of(
    head: Row, rows: Iterable[Row], point: Point, lineage: Lineage, since: frozenset[str] | None = None
) -> Baseline:
    """`since`: commits whose runs and those before them count no more, since a change was accepted after them."""
    series = [row for row in rows if row.series == head.series and row.simulated == head.simulated]
    ancestors = lineage.up_to(point.commit) if point.commit and point.runs is None else None
    unplaced = point.commit is not None and point.runs is None and ancestors is None
    notes = (_unknown(point, lineage),) if unplaced else ()
    earlier = [row for row in series if _is_before(row, head, point, ancestors) and _counts(row, since)]
    fitting = _by_time(row for row in earlier if row.fingerprint == head.fingerprint)[-NEWEST:]
    others = _by_time(row for row in earlier if row.fingerprint != head.fingerprint)
    return Baseline(point, tuple(fitting), notes, others[-1] if others and not fitting else None)


def _is_before(row: Row, head: Row, point: Point, ancestors: frozenset[str] | None) -> bool:
    if row.run_id == head.run_id:
        return False
    if point.runs is not None:
        return row.run_id in point.runs
    if row.commit is not None and row.commit == head.commit and not head.dirty:
        return False
    if ancestors is not None:
        return row.commit in ancestors
    return row.time < point.time and row.pull_request is None and _on_the_branch(row, head)


def _on_the_branch(row: Row, head: Row) -> bool:
    return row.branch == (head.base or head.branch)


def _counts(row: Row, since: frozenset[str] | None) -> bool:
    """A run whose SLOs are violated counts too: without the slow ones the noise would look smaller than it is."""
    if row.state != "valid" or row.dirty or row.figures.get("success_rate", 0.0) < LEAST_SUCCESS:
        return False
    return not _throttled(row) and (since is None or row.commit not in since)


def _throttled(row: Row) -> bool:
    shares = (share for name, share in row.figures.items() if name.startswith(_THROTTLED) and name != _USUAL)
    return max(shares, default=0.0) > MOST_THROTTLED


def _comparable(row: Row, head: Row) -> bool:
    return row.series == head.series and row.fingerprint == head.fingerprint


def _unknown(point: Point, lineage: Lineage) -> str:
    why = "the clone is shallow (fetch-depth: 0 gets it all)" if lineage.shallow else "git does not know it here"
    return f"what comes before {point.name} is unknown, {why}: earlier runs of the same branch are taken"


def _by_time(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row.time, row.run_id))
