"""The baseline of a head: the earlier sessions that it is compared with, up to a point in history."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    "SeriesRows",
    "baseline_of",
    "default_point",
    "head_of",
    "is_on_base_branch",
    "point_at",
    "runs_at",
]

# Seconds after which a session of the head's own commit counts as earlier: a repeated job is not its own baseline.
_SAME_COMMIT = 12 * 3600.0
Series = tuple[str, str]
_TOO_NEW = "of this commit within 12 hours"
_ELSEWHERE = "in another environment"
# Number of baselines that are cached; each has as many sessions as its test.
_KEPT = 200
# Sessions with the head's inputs that suffice for a baseline; with fewer, sessions with other inputs are used, too.
_FEWEST_ALIKE = 3


@dataclass(frozen=True, slots=True)
class BaselineRef:
    """A point in history: runs before `time`, in seconds since 1970, and at or before `commit`, if given.

    `name` is for display. `runs` are the only runs, if runs were named rather than a point. `named` says whether the
    user named it.
    """

    name: str
    commit: str | None
    time: float
    runs: frozenset[str] | None = None
    named: bool = False


@dataclass(frozen=True, slots=True)
class BaselineSessions:
    """The baseline of a head.

    `history` are all sessions, oldest first by commit, then by time; `accepted` of them precede the last accepted
    change. `unlike` are sessions with other inputs than the head's; `mixed` says whether they are in the history
    because too few have the same. `elsewhere` is the newest run of the test that is left out because of another
    environment.
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
        """The sessions that can be the level, at most 20."""
        return self.history[self.accepted :][-NEWEST:]

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(row for session in self.sessions for row in session.rows)


def head_of(newest: Row, rows: Iterable[Row]) -> Session:
    """Return the newest run's session: this run, and the runs of its pytest session that measured the same.

    These have the same commit, inputs, state, series and environment.
    """
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
    """Return the point where the head's branch leaves the base branch or, on that branch, the head's commit.

    `began` is when the head's session began.
    """
    row = head.newest
    if row.merge_base and not is_on_base_branch(row):
        branch = f" of {row.base}" if row.base else ""
        return BaselineRef(f"the merge-base {row.merge_base[:10]}{branch}", row.merge_base, began)
    if row.commit and row.dirty:
        return BaselineRef(f"commit {row.commit[:10]}, which it changes", row.commit, began)
    before = lineage.commit(f"{row.commit}^") if row.commit else None
    name = f"the commit before, {before[:10]}" if before else "the runs before it"
    return BaselineRef(name, row.commit, began)


class SeriesRows:
    """The runs of a test, grouped into sessions once; each head of the test selects its baseline from them."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = oldest_first(rows)
        self._times = [row.time for row in self._rows]
        self._flaws = {row.run_id: flaw_of(row) for row in self._rows}
        self._groups: dict[tuple[object, ...], _Sessions] = {}

    def sound(self, newest: Row, branch: str | None, *, alike: bool) -> _Sessions:
        """Return the sessions in the environment of this run that can be a baseline.

        Args:
            newest: The run.
            branch: Only runs of this branch, without those of pull requests; "" for all branches.
            alike: Whether only runs with the same inputs count.
        """
        series, inputs = (*_measured(newest), newest.fingerprint), newest.inputs if alike else None
        if (key := (*series, branch, inputs)) not in self._groups:
            rows = (row for row in self._rows if (*_measured(row), row.fingerprint) == series)
            of_branch = (row for row in rows if branch == "" or (row.branch == branch and row.pull_request is None))
            chosen = (row for row in of_branch if inputs in (None, row.inputs) and self._flaws[row.run_id] is None)
            self._groups[key] = _Sessions(sessions_of(chosen))
        return self._groups[key]

    def between(self, since: float, before: float) -> Iterator[tuple[Row, str | None]]:
        """Yield the runs from `since` up to `before`, and why each of them cannot be a baseline, None if it can."""
        for row in self._rows[bisect_left(self._times, since) : bisect_left(self._times, before)]:
            yield row, self._flaws[row.run_id]


class _Sessions:
    """Sessions, oldest first; for most of those before a head, all runs belong to its baseline.

    A report needs the baselines of hundreds of heads among thousands of sessions, so only sessions that may have
    something in common with the head are examined.
    """

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._all = sessions
        self._began = [each.began for each in sessions]
        self._commits = [each.commit or "" for each in sessions]
        # The time of the last run of each session and all sessions before it.
        self._latest = list(itertools.accumulate((each.newest.time for each in sessions), max))
        self._named: dict[str, list[int]] = {}
        for place, each in enumerate(sessions):
            for name in {each.commit or "", *(row.session or row.run_id for row in each.rows)}:
                self._named.setdefault(name, []).append(place)

    def before(
        self, newest: Row, time: float, ancestors: Mapping[str, int] | None, is_kept: Callable[[Row], bool]
    ) -> list[Session]:
        """Return the sessions before a head, by ancestry and then by time, with only the runs that are kept."""
        end = bisect_left(self._began, time)
        found: list[Session | None] = list(self._all[:end])
        for place in self._doubtful(newest, time, end):
            kept = tuple(filter(is_kept, self._all[place].rows))
            if len(kept) < len(self._all[place].rows):
                found[place] = Session(kept) if kept else None
        if ancestors is None:
            return [each for each in found if each is not None]
        places = [place for place, commit in enumerate(self._commits[:end]) if commit in ancestors]
        places.sort(key=lambda place: ancestors[self._commits[place]])
        return [each for place in places if (each := found[place]) is not None]

    def _doubtful(self, newest: Row, time: float, end: int) -> set[int]:
        """Return the indexes of sessions with runs after a time, or with something in common with a head."""
        if time == math.inf:
            return set(range(end))
        names = {newest.commit or "", newest.session or newest.run_id, newest.run_id}
        doubtful = {place for name in names for place in self._named.get(name, ()) if place < end}
        while end and self._latest[end - 1] >= time:
            end -= 1
            doubtful.add(end)
        return doubtful


def _measured(row: Row) -> tuple[object, ...]:
    return row.test, row.parameters, row.simulated


def baseline_of(head: Session, rows: SeriesRows, point: BaselineRef, lineage: CommitGraph) -> BaselineSessions:
    """Return the baseline of a head among `rows`; rows of other series are ignored."""
    newest, ancestors = head.newest, _ancestors(point, lineage)
    is_earlier = _earlier(newest, point, ancestors)
    before = math.inf if point.runs is not None else point.time
    branch = newest.base or newest.branch if ancestors is None and point.runs is None else ""

    def sessions(*, alike: bool) -> list[Session]:
        return rows.sound(newest, branch, alike=alike).before(
            newest, before, ancestors, lambda row: is_earlier(row) and not _too_new(row, head, point)
        )

    every, history = sessions(alike=False), sessions(alike=True)
    if mixed := len(history) < _FEWEST_ALIKE:
        history = every
    since = min((each.began for each in history[-NEWEST:]), default=0.0)
    flawed = [
        (row, why)
        for row, flaw in rows.between(since, before)
        if _measured(row) == _measured(newest) and is_earlier(row)
        if (why := _ELSEWHERE if row.fingerprint != newest.fingerprint else flaw or _too_new(row, head, point))
    ]
    elsewhere = [row for row, why in flawed if why == _ELSEWHERE]
    return BaselineSessions(
        point=_as_it_is(point, head, history),
        history=tuple(history),
        unlike=tuple(each for each in every if each.began >= since and each.inputs != head.inputs),
        mixed=mixed,
        notes=(*_unknown(point, ancestors, lineage), *_left_out(Counter(why for _, why in flawed))),
        elsewhere=elsewhere[-1] if elsewhere and not history else None,
    )


class Baselines:
    """The baselines of the runs of one store; the most recently used are cached.

    Each figure of a run, and each other test of its session, needs the same one.
    """

    def __init__(self, rows: Mapping[Series, Sequence[Row]], lineage: CommitGraph) -> None:
        self._rows = rows
        self._lineage = lineage
        self._series: dict[Series, SeriesRows] = {}
        self._kept: OrderedDict[tuple[object, ...], BaselineSessions] = OrderedDict()

    def of(self, head: Session, point: BaselineRef) -> BaselineSessions:
        row = head.newest
        # The run id alone is not enough: hypothetical rows are looked up, too, as if a row were of another test.
        key = (row.run_id, row.series, row.fingerprint, row.inputs, row.session or row.time, row.commit, point)
        if key not in self._kept:
            self._kept[key] = baseline_of(head, self._series_of(row), point, self._lineage)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return self._kept[key]

    def _series_of(self, row: Row) -> SeriesRows:
        if row.series not in self._series:
            self._series[row.series] = SeriesRows(self._rows.get(row.series, ()))
        return self._series[row.series]


def _ancestors(point: BaselineRef, lineage: CommitGraph) -> Mapping[str, int] | None:
    """Return the commits up to the point, with their places; None if git does not know them, or they do not matter."""
    if point.commit is None or point.runs is not None or lineage.shallow:
        return None
    return lineage.up_to(point.commit)


def _earlier(newest: Row, point: BaselineRef, ancestors: Mapping[str, int] | None) -> Callable[[Row], bool]:
    """Return a function that says whether a run is before a head."""
    session, branch, runs, time = newest.session, newest.base or newest.branch, point.runs, point.time

    def is_before(row: Row) -> bool:
        if runs is not None:
            return row.run_id in runs
        if ancestors is not None:
            return row.time < time and row.commit in ancestors
        return row.time < time and row.branch == branch and row.pull_request is None

    def is_earlier(row: Row) -> bool:
        return is_before(row) and row.run_id != newest.run_id and (row.session is None or row.session != session)

    return is_earlier


def _too_new(row: Row, head: Session, point: BaselineRef) -> str | None:
    """Return why an earlier run of the head's own commit cannot be a baseline for it; None if it can."""
    newest = head.newest
    if row.commit is None or row.commit != newest.commit or newest.dirty or point.runs is not None:
        return None
    if is_on_base_branch(newest):
        return None if row.time < head.began - _SAME_COMMIT else _TOO_NEW
    return "of this commit"


def _as_it_is(point: BaselineRef, head: Session, history: Sequence[Session]) -> BaselineRef:
    """Return the point under its right name: in a nightly series, the head is not compared with the commit before."""
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
        why = "the clone is shallow; fetch-depth: 0 gets it all" if lineage.shallow else "git does not know it here"
        yield f"the commits before {point.name} are unknown ({why}); earlier runs of the same branch are used"


def point_at(ref: str, rows: Sequence[Row], lineage: CommitGraph) -> BaselineRef:
    """Return the point in history that a label, commit, time or run names. Raises: UsageError, with the known names."""
    labelled = frozenset(row.run_id for row in rows if row.label == ref)
    if labelled:
        return BaselineRef(f"label {ref}", None, math.inf, labelled, named=True)
    commit = None if is_time(ref) else lineage.commit(ref)
    if commit is not None:
        return BaselineRef(ref, commit, math.inf, named=True)
    named = select(ref, rows)
    newest = max(named, key=lambda row: row.time)
    # For a time, or a name that only runs have, the runs and everything measured before them count.
    return BaselineRef(ref, newest.commit, newest.time + 1.0, named=True)


def runs_at(point: BaselineRef, rows: Sequence[Row]) -> list[Row]:
    """Return the runs of the point's commit, or the runs that it names."""
    if point.runs is not None:
        return [row for row in rows if row.run_id in point.runs]
    return [row for row in rows if row.commit == point.commit]
