"""The ancestry of commits, as git knows it; if git does not, the times of the runs decide."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property

from pytest_comfyload.history.git import Git

__all__ = ["CommitGraph"]

# Git would take other strings for options.
_HASH = re.compile(r"[0-9a-f]{7,64}")


class CommitGraph:
    """Queries git once for each commit; without git, nothing is known."""

    def __init__(self, git: Git | None = None) -> None:
        self._git = git
        self._known: dict[str, Mapping[str, int] | None] = {}
        self._introduced: dict[tuple[str, str, str], str | None] = {}

    def up_to(self, commit: str) -> Mapping[str, int] | None:
        """Return the commit and its ancestors, with places that ascend in history; None if git does not know it."""
        if commit not in self._known:
            found = self._git.ancestors(commit) if self._git is not None else []
            self._known[commit] = {each: len(found) - at for at, each in enumerate(found)} or None
        return self._known[commit]

    def commit(self, revision: str) -> str | None:
        return self._git.commit(revision) if self._git is not None else None

    def newest_tag(self, commit: str) -> tuple[str, str] | None:
        """Return the name and the commit of the last tag before a commit; None if there is none."""
        if self._git is None or not _HASH.fullmatch(commit):
            return None
        name = self._git.ask("describe", "--tags", "--abbrev=0", f"{commit}^")
        tagged = self.commit(name) if name else None
        return (name, tagged) if name and tagged else None

    def introduced(self, text: str, path: str, commit: str) -> str | None:
        """Return the first commit, up to `commit`, whose file has the text; a squash merge renames commits."""
        if self._git is None or not _HASH.fullmatch(commit):
            return None
        asked = text, path, commit
        if asked not in self._introduced:
            self._introduced[asked] = self._git.introduced(*asked)
        return self._introduced[asked]

    @cached_property
    def dates(self) -> Mapping[str, tuple[float, int]]:
        """The sort keys of the commits of all branches; parents come first, regardless of clock errors."""
        listed = self._git.dated() if self._git is not None else []
        latest, dates = 0.0, {}
        for place, (commit, date) in enumerate(reversed(listed)):
            latest = max(latest, date)
            dates[commit] = (latest, place)
        return dates

    @cached_property
    def shallow(self) -> bool:
        return self._git is not None and self._git.shallow
