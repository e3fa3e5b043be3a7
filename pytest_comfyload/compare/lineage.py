"""Which commits come before which, as git tells it; where it cannot, nobody guesses: the runs' own times decide."""

from __future__ import annotations

import re

from pytest_comfyload.history.git import Git

__all__ = ["Lineage"]

# `git describe` would take other words for its options.
_HASH = re.compile(r"[0-9a-f]{7,64}")


class Lineage:
    """Asks git once for each commit; without git it knows nothing."""

    def __init__(self, git: Git | None = None) -> None:
        self._git = git
        self._known: dict[str, frozenset[str] | None] = {}

    def up_to(self, commit: str) -> frozenset[str] | None:
        """The commit and all before it; None where git does not know it."""
        if commit not in self._known:
            found = self._git.ancestors(commit) if self._git is not None else []
            self._known[commit] = frozenset(found) or None
        return self._known[commit]

    def commit(self, revision: str) -> str | None:
        return self._git.commit(revision) if self._git is not None else None

    def newest_tag(self, commit: str) -> tuple[str, str] | None:
        """The name and the commit of the last tag before a commit."""
        if self._git is None or not _HASH.fullmatch(commit):
            return None
        name = self._git.ask("describe", "--tags", "--abbrev=0", f"{commit}^")
        tagged = self.commit(name) if name else None
        return (name, tagged) if name and tagged else None

    @property
    def shallow(self) -> bool:
        return self._git is not None and self._git.shallow
