"""Queries to git's command line, which return None if git, the repository or the answer is missing."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pytest_comfyload.errors import UsageError

__all__ = ["Git"]

# Environment variables by which git tells the commands of a hook which repository they run for.
_OF_A_HOOK = frozenset({
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Git:
    """git in a folder. No command takes longer than `timeout` seconds or prompts for a password.

    With `by_folder` it uses the folder's own repository, even inside a hook of another repository.
    """

    folder: Path
    timeout: float = 10.0
    by_folder: bool = False

    def ask(self, *words: str) -> str | None:
        """Run a git command and return its stripped output; None if it fails."""
        try:
            asked = self._run(*words)
        except (OSError, ValueError, subprocess.TimeoutExpired):  # ValueError: an argument contains a NUL
            return None
        return asked.stdout.decode(errors="replace").strip() if asked.returncode == 0 else None

    def do(self, *words: str) -> str:
        """Run a git command and return its output. Raises: UsageError, with git's own message, if it fails."""
        try:
            done = self._run(*words)
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            raise UsageError(f"git {words[0]} in {self.folder} failed: {error}") from None
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()
            raise UsageError(f"git {words[0]} in {self.folder} failed: {said or f'exit status {done.returncode}'}")
        return done.stdout.decode(errors="surrogateescape")

    def _run(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        """Raises: OSError, ValueError, TimeoutExpired."""
        quiet = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
        dropped = _OF_A_HOOK if self.by_folder else frozenset()
        inherited = {name: value for name, value in os.environ.items() if name not in dropped}
        return subprocess.run(
            ["git", *words],
            cwd=self.folder,
            env={**inherited, **quiet},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=self.timeout,
        )

    def trouble(self) -> str | None:
        """Return why the commit or its history is unknown and how to fix that; None if git knows both."""
        try:
            asked = self._run("rev-parse", "--verify", "HEAD^{commit}")
        except FileNotFoundError:
            return "git is not installed, so the commit is unknown; install git"
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"git did not answer, so the commit is unknown: {error}"
        said = asked.stderr.decode(errors="replace")
        if "dubious ownership" in said:
            # git's message names the repository.
            named = re.search(r"safe\.directory (.+)$", said, re.MULTILINE)
            repository = named[1] if named else shlex.quote(str(self.folder))
            why = "git refuses the repository, since another user owns it, so the commit is unknown"
            return f"{why}; run: git config --global --add safe.directory {repository}"
        if "not a git repository" in said:
            return f"{self.folder} is not in a git repository, so the commit is unknown; run: git init, and commit"
        if asked.returncode:
            return "the repository has no commit yet; commit the tests"
        if self.shallow:
            return (
                "the clone is shallow, so earlier commits are unknown; run: git fetch --unshallow "
                "(in GitHub's actions/checkout: fetch-depth: 0)"
            )
        return None

    @property
    def shallow(self) -> bool:
        """Whether the repository is a shallow clone."""
        return self.ask("rev-parse", "--is-shallow-repository") == "true"

    @property
    def root(self) -> Path:
        """The top-level folder of the repository; the folder itself outside a repository."""
        top = self.ask("rev-parse", "--show-toplevel")
        return Path(top) if top else self.folder

    def commit(self, revision: str) -> str | None:
        """Return the full hash of a revision's commit; None if there is none, or the revision looks like an option."""
        return self.ask("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")

    def merge_base(self, one: str, other: str) -> str | None:
        return self.ask("merge-base", "--end-of-options", one, other)

    def ancestors(self, commit: str, most: int = 5000) -> list[str]:
        """Return a commit and its ancestors, children before parents, otherwise newest first by committer date.

        Ancestors beyond the boundary of a shallow clone are missing.
        """
        listed = self.ask("rev-list", "--date-order", f"--max-count={most}", "--end-of-options", commit)
        return listed.split() if listed else []

    def dated(self, most: int = 20_000) -> list[tuple[str, float]]:
        """Return the commits of all branches and tags with their committer dates, in the order of `ancestors`."""
        listed = self.ask("log", "--all", "--date-order", f"--max-count={most}", "--format=%H %ct")
        pairs = (line.split() for line in (listed or "").splitlines())
        return [(commit, float(date)) for commit, date in pairs]

    def introduced(self, text: str, path: str, commit: str) -> str | None:
        """Return the first commit up to `commit` that introduced a text into a file.

        `path` is relative to the top of the repository.
        """
        listed = self.ask("log", "--reverse", "--format=%H", f"-S{text}", commit, "--", f":(top){path}")
        return listed.split()[0] if listed else None
