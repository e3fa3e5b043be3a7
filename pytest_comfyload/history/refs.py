"""REFs, which name runs: a run id, label, tag, branch, commit, git revision, date, `latest` or `latest~3`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from pytest_comfyload.errors import UsageError, nearest
from pytest_comfyload.history.git import Git
from pytest_comfyload.history.index import Row
from pytest_comfyload.history.record import INCOMPLETE

__all__ = ["is_time", "select"]

_LATEST = re.compile(r"latest(?:~(\d{1,9}))?")
_COMMIT = re.compile(r"[0-9a-f]{4,64}", re.IGNORECASE)
_DATE = re.compile(r"\d{4}-\d")
_RUN_ID = 15  # length of a run id up to the seconds
_SHORT_ID = re.compile(r"[0-9a-f]{8}")


def is_time(ref: str) -> bool:
    """Return whether `ref` is `latest`, `latest~3` or `@DATE`, which mean times even if git has a ref of that name."""
    return bool(_LATEST.fullmatch(ref) or re.match(r"@\d", ref))


def select(ref: str, rows: Sequence[Row], git: Git | None = None) -> list[Row]:
    """Return the runs that `ref` names, newest first. It is tried as each kind of name in the order listed above.

    A label, tag or commit names all its runs. A branch, a date and `latest` name the newest run of each test, and
    `latest~3` the third before that, not counting runs that were cut off. `git` resolves revisions such as `HEAD~2`. A
    date is written `2026-01-31` or, unambiguously, `@2026-01-31`. On pytest's command line the latter must follow a
    `=`, or it is taken for a file of arguments.

    Raises: UsageError if there is no such run, with the most similar names.
    """
    newest_first = sorted(rows, key=lambda row: (row.time, row.run_id), reverse=True)
    if latest := _LATEST.fullmatch(ref):
        return _found(ref, _of_each_test(newest_first, int(latest[1] or 0)), rows)
    if ref.startswith("@"):
        return _found(ref, _until(_end_of(ref), newest_first), rows)
    for names in (_by_run_id, _by_label, _by_tag, _by_branch, _by_commit):
        if found := names(ref, newest_first):
            return found
    commit = git.commit(ref) if git is not None else None
    if commit is None and _DATE.match(ref):
        return _found(ref, _until(_end_of(f"@{ref}"), newest_first), rows)
    return _found(ref, _by_commit(commit, newest_first) if commit else [], rows, commit)


def _found(ref: str, found: list[Row], rows: Iterable[Row], commit: str | None = None) -> list[Row]:
    if found:
        return found
    legal = [word for row in rows for word in (row.label, row.tag, row.branch, (row.commit or "")[:12]) if word]
    meant = f" (commit {commit[:12]})" if commit else ""
    if not legal:
        raise UsageError(f"no run is named {ref!r}{meant}; the store has {'none' if not list(rows) else 'no names'}")
    raise UsageError(f"no run is named {ref!r}{meant}; there are: latest, {nearest(ref, legal)}")


def _of_each_test(rows: Iterable[Row], before: int = 0) -> list[Row]:
    """Return, for each test, the row that is `before` places after the first in sorted rows."""
    series: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.state != INCOMPLETE:
            series.setdefault(row.series, []).append(row)
    return [each[before] for each in series.values() if len(each) > before]


def _until(end: float, rows: Iterable[Row]) -> list[Row]:
    return _of_each_test(row for row in rows if row.time < end)


def _by_run_id(ref: str, rows: Sequence[Row]) -> list[Row]:
    end = f"-{ref}" if _SHORT_ID.fullmatch(ref) else "\0"  # the short form that lists show
    return [
        row
        for row in rows
        if row.run_id == ref or row.run_id.endswith(end) or (len(ref) >= _RUN_ID and row.run_id.startswith(ref))
    ]


def _by_label(ref: str, rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.label == ref]


def _by_tag(ref: str, rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.tag == ref]


def _by_branch(ref: str, rows: Sequence[Row]) -> list[Row]:
    """Return the newest runs on a branch.

    A fork may have a branch of the same name, so runs of branches in this repository take precedence over pull
    requests.
    """
    name = ref.removeprefix("origin/")
    on_it = [row for row in rows if row.branch == name]
    return _of_each_test([row for row in on_it if row.pull_request is None] or on_it)


def _by_commit(ref: str, rows: Sequence[Row]) -> list[Row]:
    if not _COMMIT.fullmatch(ref):
        return []
    prefix = ref.lower()
    found = [row for row in rows if any((commit or "").startswith(prefix) for commit in (row.commit, row.head))]
    commits = sorted({row.commit or "" for row in found})
    if len({row.head if (row.head or "").startswith(prefix) else row.commit for row in found}) > 1:
        several = ", ".join(commit[:12] for commit in commits)
        raise UsageError(f"{ref!r} may be several commits: {several}; write more of the one that you mean")
    return found


_READERS: tuple[tuple[str, timedelta], ...] = (
    ("%Y-%m-%d", timedelta(days=1)),
    ("%Y-%m-%dT%H:%M", timedelta(minutes=1)),
    ("%Y-%m-%dT%H:%M:%S", timedelta(seconds=1)),
)


def _end_of(ref: str) -> float:
    """Return when the day, minute or second ends, in UTC. Raises: UsageError."""
    for form, length in _READERS:
        try:
            return (datetime.strptime(ref[1:], form).replace(tzinfo=UTC) + length).timestamp()
        except (ValueError, OverflowError):
            continue
    raise UsageError(f"{ref!r} is not a date; write 2026-01-31 or 2026-01-31T14:00, in UTC")
