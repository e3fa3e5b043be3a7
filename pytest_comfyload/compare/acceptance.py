"""What people have said of changes, in a file that is committed with the code, one table for each.

An accepted change starts a new baseline; a rejected one was noise, and is marked nowhere.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_comfyload.errors import UsageError

__all__ = ["FILE", "Acceptance", "add_acceptance", "read_acceptances"]

FILE = "comfyload-accepted.toml"
_KEYS = {"commit", "test", "reason", "decision", "date"}
DECISIONS = ("accepted", "rejected")


@dataclass(frozen=True, slots=True)
class Acceptance:
    """`test` None: of every test. `date` is a day, `2026-01-31`."""

    commit: str
    reason: str
    decision: str = "accepted"
    test: str | None = None
    date: str | None = None

    @property
    def accepted(self) -> bool:
        return self.decision == "accepted"

    def concerns(self, commit: str | None, test: str) -> bool:
        return commit is not None and commit.startswith(self.commit) and self.test in (None, test)


def read_acceptances(root: Path) -> tuple[Acceptance, ...]:
    """Of a file that need not be there. Raises: UsageError, naming it and what is wrong."""
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
    if len(entry.get("commit", "")) < 7 or not entry.get("reason"):
        raise UsageError(f"{where}: a commit of 7 characters or more and a reason are needed")
    if entry.get("decision", "accepted") not in DECISIONS:
        raise UsageError(f"{where}: decision {entry['decision']!r}; legal: {', '.join(DECISIONS)}")
    return Acceptance(**entry)


def add_acceptance(root: Path, new: Acceptance) -> Path:
    """At the end of the file; what is there stays as it was written. Returns the file. Raises: UsageError."""
    path = root / FILE
    _refuse_double(new, read_acceptances(root))
    values = {"commit": new.commit, "test": new.test, "decision": new.decision, "date": new.date, "reason": new.reason}
    # A JSON text is a TOML text too, save for the one character that TOML wants escaped.
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
        if (each.commit, each.test) == (new.commit, new.test):
            raise UsageError(f"commit {new.commit[:10]} is {each.decision} already: {each.reason}; edit {FILE}")


_HEADER = (
    "# Changes of speed that people have judged; commit this file. `comfyload accept REF --reason …` adds to it.\n"
)
