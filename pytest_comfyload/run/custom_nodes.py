"""Versions of a custom node, or of ComfyUI itself, from its repository, which is never written to.

A server gets a clone of a commit, or a copy of a folder with uncommitted changes.
"""

from __future__ import annotations

import os
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_comfyload.errors import UsageError
from pytest_comfyload.history.git import Git
from pytest_comfyload.user_paths import user_path

__all__ = ["NodeVersion", "changed_requirements", "find_node", "parse_node"]

# Seconds that a git command may take on a large repository.
_PATIENCE = 120.0
_SUBMODULE = "160000"


@dataclass(frozen=True, slots=True)
class NodeVersion:
    """A custom node at a commit, or as it is in its folder.

    Args:
        name: The name of its folder in the installation's custom_nodes, by which nodes import each other.
        folder: The user's folder with the node.
        top: The top of its repository; None if it is not in one.
        commit: The commit's full hash; None if there is none.
        dirty: The version is that of the folder, which differs from the commit.
    """

    name: str
    folder: Path
    top: Path | None
    commit: str | None
    dirty: bool

    @property
    def version(self) -> str:
        """The short commit hash: `042b91c`, or `042b91c+dirty`; `uncommitted` without a commit."""
        return f"{self.commit[:7]}{'+dirty' * self.dirty}" if self.commit else "uncommitted"

    def put(self, target: Path) -> None:
        """Create the node's folder for a server. Raises: UsageError."""
        if self.top is None or self.commit is None:
            shutil.copytree(self.folder, target, ignore=shutil.ignore_patterns(".git", "__pycache__"))
        elif self.dirty:
            _copy_working_tree(self.folder, target)
        elif self.top == self.folder:
            _clone(self.top, self.commit, target)
        else:
            repository = target.parent.parent / "repositories" / self.name
            _clone(self.top, self.commit, repository)
            target.symlink_to(repository / self.folder.relative_to(self.top))

    def content(self, file: str) -> str:
        """Return the text of a file in this version; empty if the file does not exist."""
        if self.top is None or self.commit is None or self.dirty:
            path = self.folder / file
            return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        place = self.folder.relative_to(self.top) / file
        return _git(self.top).ask("show", f"{self.commit}:{place.as_posix()}") or ""


def parse_node(text: str) -> tuple[Path, str | None]:
    """Split PATH[@REF]; an existing path may contain an @ itself. Raises: UsageError."""
    path, at, ref = text.rpartition("@")
    if not at or user_path(text).exists():
        return user_path(text), None
    if not ref:
        raise UsageError(f"{text}: no commit behind the @; write PATH@REF, or PATH for the folder as it is")
    return user_path(path), ref


def find_node(folder: Path, ref: str | None, custom_nodes: Path) -> NodeVersion:
    """Return a version of the node in `folder`.

    Args:
        folder: The user's folder with the node.
        ref: A commit, branch or tag; None for the folder as it is.
        custom_nodes: The folder of the installation's custom nodes, where the node may have another name.

    Raises:
        UsageError: There is no such folder or commit.
    """
    if not folder.is_dir():
        raise UsageError(f"no custom node in {folder}: there is no such folder")
    folder = folder.resolve()
    git = _git(folder)
    shown = git.ask("rev-parse", "--show-toplevel")
    top = Path(shown).resolve() if shown else None
    commit = git.commit(ref or "HEAD")
    if ref is not None and commit is None:
        raise UsageError(
            f"{ref} is not a commit of {folder}: {git.trouble() or f'fetch it first: git fetch origin {ref}'}"
        )
    dirty = ref is None and commit is not None and bool(git.ask("status", "--porcelain", "--", "."))
    return NodeVersion(_name_of(folder, top, custom_nodes), folder, top, commit, dirty)


def changed_requirements(before: NodeVersion, after: NodeVersion) -> tuple[str, ...]:
    """Return the files in which the two versions' required packages differ, since both run with the installed ones."""
    changed = [file for file in ("requirements.txt",) if before.content(file).split() != after.content(file).split()]
    if _dependencies(before) != _dependencies(after):
        changed.append("pyproject.toml")
    return tuple(changed)


def _dependencies(node: NodeVersion) -> Any:
    try:
        return tomllib.loads(node.content("pyproject.toml")).get("project", {}).get("dependencies")
    except (tomllib.TOMLDecodeError, AttributeError):
        return None


def _name_of(folder: Path, top: Path | None, custom_nodes: Path) -> str:
    """Return the node's name in the installation, else its own."""
    installed = sorted(custom_nodes.iterdir()) if custom_nodes.is_dir() else []
    for entry in installed:
        if entry.is_dir() and entry.resolve() == folder:
            return entry.name
    if top != folder:
        return folder.name
    git = _git(folder)
    remote = git.ask("config", "--get", "remote.origin.url")
    for entry in installed:
        if remote and (entry / ".git").exists() and _git(entry).ask("config", "--get", "remote.origin.url") == remote:
            return entry.name
    # The folder of a linked worktree may have any name, so the name of the main repository is used.
    common = Path(git.ask("rev-parse", "--path-format=absolute", "--git-common-dir") or "")
    return common.parent.name if common.name == ".git" else folder.name


def _git(folder: Path) -> Git:
    return Git(folder, _PATIENCE, by_folder=True)


def _clone(repository: Path, commit: str, target: Path) -> None:
    """Clone with shared objects, so that nothing is written to the repository or needs to be cleaned up there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _git(target.parent).do(
        "clone", "--quiet", "--shared", "--no-checkout", "--template=", "--", str(repository), str(target)
    )
    # The user's global hooks must not run for this clone.
    _git(target).do("-c", f"core.hooksPath={os.devnull}", "checkout", "--quiet", "--detach", commit)
    for path, its_commit in _submodules(repository, commit):
        if _git(repository / path).commit(its_commit) is None or not (repository / path / ".git").exists():
            raise UsageError(
                f"the submodule {path} of {repository} is not there at {its_commit[:7]}; run: git submodule update "
                "--init --recursive"
            )
        _clone(repository / path, its_commit, target / path)


def _submodules(repository: Path, commit: str) -> Iterator[tuple[str, str]]:
    for entry in (_git(repository).ask("ls-tree", "-r", "-z", "--full-tree", commit) or "").split("\0"):
        about, _, path = entry.partition("\t")
        if about.startswith(_SUBMODULE):
            yield path, about.split()[2]


def _copy_working_tree(folder: Path, target: Path) -> None:
    """Copy tracked and untracked files, without ignored ones, which a version from a commit would lack."""
    target.mkdir(parents=True)
    listed = _git(folder).do("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate")
    for name in filter(None, listed.split("\0")):
        source, copy = folder / name, target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns(".git"), dirs_exist_ok=True)
        elif source.exists():
            shutil.copy2(source, copy)
