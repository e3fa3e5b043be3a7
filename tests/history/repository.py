"""Temporary git repositories for tests."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

__all__ = ["Repository"]

_ENVIRON = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.com",
    "GIT_AUTHOR_DATE": "1700000000 +0100",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.com",
}


class Repository:
    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def begin(cls, path: Path) -> Repository:
        path.mkdir(parents=True, exist_ok=True)
        made = cls(path)
        made.git("init", "-q", "-b", "main")
        return made

    def git(self, *words: str) -> str:
        done = subprocess.run(
            ["git", *words],
            cwd=self.path,
            env={**os.environ, **_ENVIRON},
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        )
        return done.stdout.strip()

    def commit(self, title: str) -> str:
        """Commit a change and return the commit's hash."""
        (self.path / "file").write_text(title, encoding="utf-8")
        self.git("add", "file")
        self.git("commit", "-q", "-m", title)
        return self.git("rev-parse", "HEAD")

    def clone(self, path: Path, *options: str) -> Repository:
        self.git("clone", "-q", *options, self.path.as_uri(), str(path))
        return Repository(path)
