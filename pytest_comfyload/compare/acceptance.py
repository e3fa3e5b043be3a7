"""Decisions on performance changes, in a file that is committed with the code, one table per decision.

An accepted change begins a new baseline; a rejected one was noise, and is not marked anywhere.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pytest_comfyload.compare.commit_graph import CommitGraph
from pytest_comfyload.compare.sessions import Session
from pytest_comfyload.errors import UsageError
from pytest_comfyload.history.index import Row

__all__ = ["FILE", "Acceptance", "accepted_at", "add_acceptance", "read_acceptances"]

FILE = "comfyload-accepted.toml"
_KEYS = {"commit", "since", "run", "test", "reason", "decision", "date"}
DECISIONS = ("accepted", "rejected")


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A decision on a performance change.

    The change came with `commit` or, if the commit stayed the same, exists `since` a day or time, UTC. `run` is the
    first run with it, for the reader. `test` None means every test. `date` is that of the decision, `2026-01-31`.
    """

    commit: str
    reason: str
    decision: str = "accepted"
    test: str | None = None
    date: str | None = None
    since: str | None = None
    run: str | None = None

    @property
    def accepted(self) -> bool:
        return self.decision == "accepted"

    @property
    def begins(self) -> float | None:
        """The time `since` in seconds since 1970. Raises: ValueError."""
        if self.since is None:
            return None
        told = datetime.fromisoformat(self.since)
        return (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()

    @property
    def what(self) -> str:
        return f"commit {self.commit[:10]}" if self.commit else f"the change since {self.since}"

    def concerns(self, commit: str | None, test: str) -> bool:
        return bool(self.commit) and commit is not None and commit.startswith(self.commit) and self.test in (None, test)

    def covers(self, before: Row, after: Row) -> bool:
        """Return whether it is about the change between two runs of its test."""
        if self.test not in (None, after.test):
            return False
        if self.begins is not None:
            return before.time < self.begins <= after.time
        return self.concerns(after.commit, after.test)


def read_acceptances(root: Path) -> tuple[Acceptance, ...]:
    """Read the decisions in the file, which need not exist. Raises: UsageError, naming the file and what is wrong."""
    path = root / FILE
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    changes = content.get("change", [])
    if set(content) - {"change"} or not isinstance(changes, list):
        raise UsageError(f"{path}: write [[change]] tables only")
    return tuple(_acceptance(path, number, entry) for number, entry in enumerate(changes, 1))


def _acceptance(path: Path, number: int, entry: Any) -> Acceptance:
    where = f"{path}, [[change]] {number}"
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise UsageError(f"{where}: every value is a text in quotes")
    if unknown := sorted(set(entry) - _KEYS):
        raise UsageError(f"{where}: unknown key {unknown[0]!r}; legal: {', '.join(sorted(_KEYS))}")
    if not entry.get("reason") or (len(entry.get("commit", "")) < 7 and "since" not in entry):
        raise UsageError(f"{where}: a reason, and a commit of 7 characters or more or `since`, are needed")
    if entry.get("decision", "accepted") not in DECISIONS:
        raise UsageError(f"{where}: decision {entry['decision']!r}; legal: {', '.join(DECISIONS)}")
    made = Acceptance(**{"commit": "", **entry})
    try:
        _ = made.begins
    except ValueError:
        raise UsageError(f'{where}: since = "{made.since}" is not a time; write "2026-01-31T02:00:00Z"') from None
    return made


def add_acceptance(root: Path, new: Acceptance) -> Path:
    """Append a decision to the file, leaving the rest unchanged, and return the file's path. Raises: UsageError."""
    path = root / FILE
    _refuse_double(new, read_acceptances(root))
    names = ("commit", "since", "run", "test", "decision", "date", "reason")
    values = {name: getattr(new, name) for name in names}
    # A JSON string is also a TOML string, except for the one character that TOML requires to be escaped.
    lines = [
        f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")
        for key, value in values.items()
        if value
    ]
    before = path.read_text(encoding="utf-8") if path.exists() else _HEADER
    path.write_text(before.rstrip("\n") + "\n\n[[change]]\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def _refuse_double(new: Acceptance, known: Sequence[Acceptance]) -> None:
    for each in known:
        if (each.commit, each.since, each.test) == (new.commit, new.since, new.test):
            raise UsageError(f"{new.what} is {each.decision} already: {each.reason}; edit {FILE}")


_HEADER = "# Decisions on changes of speed; commit this file. `comfyload accept REF --reason …` adds to it.\n"


def accepted_at(
    head: Session, history: Sequence[Session], known: Sequence[Acceptance], lineage: CommitGraph
) -> tuple[Acceptance | None, int]:
    """Return the decision that the head is the first to show, and how many sessions precede the last earlier one.

    A head that is the first to show a change is compared with the level before it.
    """
    here, before = None, 0
    for each in known:
        if each.accepted and each.test in (None, head.newest.test):
            cut = _sessions_before(each, head, history, lineage)
            if cut is not None and cut == len(history):
                here = each
            elif cut is not None:
                before = max(before, cut)
    return here, before


def _sessions_before(
    accepted: Acceptance, head: Session, history: Sequence[Session], lineage: CommitGraph
) -> int | None:
    """Return how many sessions precede the accepted change; None if the head precedes it, or is on another branch."""
    begins = accepted.begins
    if begins is not None:
        return _places(each.began < begins for each in history) if head.began >= begins else None
    older = _commits_before(accepted, head, lineage)
    if older is not None:
        return _places(each.commit in older for each in history)
    # If git does not know the commit, the runs may.
    there = [at for at, each in enumerate((*history, head)) if (each.commit or "").startswith(accepted.commit)]
    return there[0] if there else None


def _places(early: Iterable[bool]) -> int:
    """Return the number of sessions up to the last early one."""
    return max((at for at, is_early in enumerate(early, 1) if is_early), default=0)


def _commits_before(accepted: Acceptance, head: Session, lineage: CommitGraph) -> Set[str] | None:
    """Return the commits before the accepted one; None if it is not in the head's history.

    After a squash merge, it is the commit that brought the decision into the file.
    """
    history = lineage.up_to(head.commit) if head.commit is not None else None
    if history is None or head.commit is None:
        return None
    there = next((each for each in history if each.startswith(accepted.commit)), None)
    there = there or lineage.introduced(accepted.commit, FILE, head.commit)
    older = lineage.up_to(there) if there is not None else None
    return older.keys() - {there} if older is not None else None
