"""The baseline of a head: the earlier sessions it is compared with, up to a place in history."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pytest_comfyload.compare.commit_graph import CommitGraph
from pytest_comfyload.compare.sessions import Session, flaw_of, oldest_first, sessions_of
from pytest_comfyload.history.index import Row
from pytest_comfyload.history.refs import is_time, select
from pytest_comfyload.metrics.regression import NEWEST

__all__ = [
    "BaselineRef",
    "BaselineSessions",
    "Baselines",
    "baseline_of",
    "default_point",
    "head_of",
    "is_on_base_branch",
    "point_at",
    "runs_at",
]

# Seconds after which a session of the head's own commit is an earlier one: a repeated job is not its own baseline.
_SAME_COMMIT = 12 * 3600.0
Series = tuple[str, str]
_TOO_NEW = "of this commit within 12 hours"
_ELSEWHERE = "in another environment"
# Baselines that are kept, each of as many sessions as its test has.
_KEPT = 200
# Sessions with the head's inputs that make a baseline; with fewer, those with other inputs are taken too.
_FEWEST_ALIKE = 3


@dataclass(frozen=True, slots=True)
class BaselineRef:
    """A place in history, `name` for a person: runs before `time`, seconds since 1970, at or before `commit`, if any.

    `runs`: these and no others, where runs were named rather than a place. `named`: by the user.
    """

    name: str
    commit: str | None
    time: float
    runs: frozenset[str] | None = None
    named: bool = False


@dataclass(frozen=True, slots=True)
class BaselineSessions:
    """`history`: all sessions, oldest first by commit, then by time. `accepted`: how many of them are before the last
    change that was accepted.

    `unlike`: sessions with other inputs than the head's; `mixed`: they are in the history, since too few are alike.
    `elsewhere`: the newest run of the test that another environment keeps out.
    """

    point: BaselineRef
    history: tuple[Session, ...] = ()
    accepted: int = 0
    unlike: tuple[Session, ...] = ()
    mixed: bool = False
    notes: tuple[str, ...] = ()
    elsewhere: Row | None = None

    @property
    def sessions(self) -> tuple[Session, ...]:
        """The sessions that can be the level, 20 at most."""
        return self.history[self.accepted :][-NEWEST:]

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(row for session in self.sessions for row in session.rows)


def head_of(newest: Row, rows: Iterable[Row]) -> Session:
    """The newest run and the others of its pytest session that measured the same, as well as it did."""
    if newest.session is None:
        return Session((newest,))
    same = [
        row
        for row in rows
        if row.session == newest.session
        and (row.commit, row.inputs, row.state) == (newest.commit, newest.inputs, newest.state)
        and (row.series, row.fingerprint) == (newest.series, newest.fingerprint)
    ]
    return Session(tuple(oldest_first({row.run_id: row for row in (*same, newest)}.values())))


def is_on_base_branch(head: Row) -> bool:
    return head.pull_request is None and head.merge_base in (None, head.commit)


def default_point(head: Session, lineage: CommitGraph, began: float) -> BaselineRef:
    """Return where its branch leaves the base branch; on that branch itself, the head's commit.

    `began`: when the head's session began."""
    row = head.newest
    if row.merge_base and not is_on_base_branch(row):
        branch = f" of {row.base}" if row.base else ""
        return BaselineRef(f"the merge-base {row.merge_base[:10]}{branch}", row.merge_base, began)
    if row.commit and row.dirty:
        return BaselineRef(f"commit {row.commit[:10]}, which it changes", row.commit, began)
    before = lineage.commit(f"{row.commit}^") if row.commit else None
    name = f"the commit before, {before[:10]}" if before else "the runs before it"
    return BaselineRef(name, row.commit, began)


def baseline_of(
    head: Session,
    rows: Iterable[Row],
    point: BaselineRef,
    lineage: CommitGraph,
    flaw: Callable[[Row], str | None] = flaw_of,
) -> BaselineSessions:
    """Collect the baseline sessions of a head among `rows`; rows of other series are ignored.

    Args:
        flaw: Says why a run cannot be a baseline; one that remembers what it said is faster.
    """
    ancestors = _ancestors(point, lineage)
    earlier = _earlier(head.newest, rows, point, ancestors)
    flaws = {row.run_id: why for row in earlier if (why := _why_not(row, head, point, flaw)) is not None}
    sessions = sessions_of(row for row in earlier if row.run_id not in flaws)
    order, inputs = ancestors or {}, head.newest.inputs
    sessions.sort(key=lambda each: (order.get(each.rows[-1].commit or "", 0), each.rows[0].time))
    alike = [each for each in sessions if each.rows[-1].inputs == inputs]
    mixed = len(alike) < _FEWEST_ALIKE
    history = sessions if mixed else alike
    since = min((each.began for each in history[-NEWEST:]), default=0.0)
    left_out = Counter(flaws[row.run_id] for row in earlier if row.run_id in flaws and row.time >= since)
    elsewhere = oldest_first(row for row in earlier if flaws.get(row.run_id) == _ELSEWHERE)
    return BaselineSessions(
        point=_as_it_is(point, head, history),
        history=tuple(history),
        unlike=tuple(each for each in sessions if each.newest.inputs != inputs and each.began >= since),
        mixed=mixed,
        notes=(*_unknown(point, ancestors, lineage), *_left_out(left_out)),
        elsewhere=elsewhere[-1] if elsewhere and not history else None,
    )


class Baselines:
    """The baselines of the runs of one store; those that were asked for last are kept.

    Each figure of a run, and each other test of its session, asks for the same one.
    """

    def __init__(self, rows: Mapping[Series, Sequence[Row]], lineage: CommitGraph) -> None:
        self._rows = rows
        self._lineage = lineage
        self._flaws: dict[str, str | None] = {}
        self._kept: OrderedDict[tuple[object, ...], BaselineSessions] = OrderedDict()

    def of(self, head: Session, point: BaselineRef) -> BaselineSessions:
        row = head.newest
        # Not the row's name alone: it is also asked for what would be, were the row of another test.
        key = (row.run_id, row.series, row.fingerprint, row.inputs, row.session or row.time, row.commit, point)
        if key not in self._kept:
            self._kept[key] = baseline_of(head, self._rows.get(row.series, ()), point, self._lineage, self._flaw)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return self._kept[key]

    def _flaw(self, row: Row) -> str | None:
        if row.run_id not in self._flaws:
            self._flaws[row.run_id] = flaw_of(row)
        return self._flaws[row.run_id]


def _ancestors(point: BaselineRef, lineage: CommitGraph) -> Mapping[str, int] | None:
    """None: git cannot say what was before."""
    if point.commit is None or point.runs is not None or lineage.shallow:
        return None
    return lineage.up_to(point.commit)


def _earlier(newest: Row, rows: Iterable[Row], point: BaselineRef, ancestors: Mapping[str, int] | None) -> list[Row]:
    """Select the rows of a head's series that are before it."""
    # A report asks this of each run of a test for each head: the cheapest conditions come first, and `series` would
    # make two tuples every time.
    if point.runs is not None:
        rows = [row for row in rows if row.run_id in point.runs]
    else:
        rows = [row for row in rows if row.time < point.time]
        if ancestors is not None:
            rows = [row for row in rows if row.commit in ancestors]
        else:
            branch = newest.base or newest.branch
            rows = [row for row in rows if row.branch == branch and row.pull_request is None]
    test, parameters, simulated, session = newest.test, newest.parameters, newest.simulated, newest.session
    return [
        row
        for row in rows
        if row.test == test
        and row.parameters == parameters
        and row.simulated == simulated
        and row.run_id != newest.run_id
        and (row.session is None or row.session != session)
    ]


def _why_not(row: Row, head: Session, point: BaselineRef, flaw: Callable[[Row], str | None]) -> str | None:
    """Return why an earlier run cannot be a baseline of this head; None if it can."""
    newest = head.newest
    if row.fingerprint != newest.fingerprint:
        return _ELSEWHERE
    if why := flaw(row):
        return why
    if row.commit is None or row.commit != newest.commit or newest.dirty or point.runs is not None:
        return None
    if is_on_base_branch(newest):
        return None if row.time < head.began - _SAME_COMMIT else _TOO_NEW
    return "of this very commit"


def _as_it_is(point: BaselineRef, head: Session, history: Sequence[Session]) -> BaselineRef:
    """In a nightly series the commit before is not what the head is held against."""
    if point.named or head.commit is None or head.newest.dirty:
        return point
    if history and point.commit == head.commit == history[-1].commit:
        return replace(point, name="earlier sessions of this commit")
    return point


def _left_out(reasons: Mapping[str, int]) -> Iterable[str]:
    if reasons:
        yield f"runs left out: {', '.join(f'{n} {why}' for why, n in reasons.items())}"


def _unknown(point: BaselineRef, ancestors: Mapping[str, int] | None, lineage: CommitGraph) -> Iterable[str]:
    if point.commit is not None and point.runs is None and ancestors is None:
        why = "the clone is shallow (fetch-depth: 0 gets it all)" if lineage.shallow else "git does not know it here"
        yield f"what comes before {point.name} is unknown, {why}: earlier runs of the same branch are taken"


def point_at(ref: str, rows: Sequence[Row], lineage: CommitGraph) -> BaselineRef:
    """Raises: UsageError, with the names that there are."""
    labelled = frozenset(row.run_id for row in rows if row.label == ref)
    if labelled:
        return BaselineRef(f"label {ref}", None, math.inf, labelled, named=True)
    commit = None if is_time(ref) else lineage.commit(ref)
    if commit is not None:
        return BaselineRef(ref, commit, math.inf, named=True)
    named = select(ref, rows)
    newest = max(named, key=lambda row: row.time)
    # A time, or a name that only runs have: they count, and what was measured before them.
    return BaselineRef(ref, newest.commit, newest.time + 1.0, named=True)


def runs_at(point: BaselineRef, rows: Sequence[Row]) -> list[Row]:
    """Select the runs of that commit, or the named ones."""
    if point.runs is not None:
        return [row for row in rows if row.run_id in point.runs]
    return [row for row in rows if row.commit == point.commit]
