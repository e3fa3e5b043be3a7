"""Location of the store, by one rule for pytest and every command: one per repository, found from anywhere inside it.

It is set by an option (`--comfyload-store`, `--store`) or by `comfyload_store` in pytest's configuration, and defaults
to `.comfyload` at the top of the repository. pytest's rootdir cannot be used: pytest determines it before it knows the
plugin's options, takes the DIR of `--comfyload-store DIR` for a test path, and changes the rootdir accordingly.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["STORE", "configuration_of", "has_store", "home_of", "project_of", "shown_from", "store_at", "unused_stores"]

STORE = ".comfyload"
# In the order in which pytest looks for them.
_CONFIGURATIONS = (
    "pytest.toml", ".pytest.toml", "pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg"
)  # fmt: skip
# Outside a repository, any of these marks the top of a project.
_PROJECT_FILES = ("pyproject.toml", "setup.py", "setup.cfg")
# Folders of a store, and of spools that wait to be stored. A folder with only a report is not a store.
_CONTENTS = ("runs", "spool")
_SECTION = re.compile(r"^\[(tool[.:])?pytest[.\]]", re.MULTILINE)


@functools.cache
def project_of(folder: Path, started: Path) -> Path:
    """Return the top of the repository that a folder is in.

    Outside a repository it is the nearest folder at or above it with a store or a Python project file, or else
    `started`, where the command was run. git is not called: even if it is missing or refuses the repository, a run must
    get the same name.
    """
    above = (folder, *folder.parents)
    repository = next((each for each in above if (each / ".git").exists()), None)
    if repository is not None:
        return repository
    for each in above:
        if has_store(each / STORE) or any((each / name).exists() for name in _PROJECT_FILES):
            return each
    return started if folder.is_relative_to(started) else folder


def has_store(store: Path) -> bool:
    """Return whether a folder has stored runs, or spools that wait to be stored."""
    return any((store / name).is_dir() for name in _CONTENTS)


def home_of(project: Path) -> Path:
    """Return the folder whose `.comfyload` keeps the runs of a project.

    Linked worktrees keep them in the main worktree, where they survive `git worktree remove` and can be compared; a
    worktree that already has a store continues to use it. A submodule is a repository of its own.
    """
    return project if has_store(project / STORE) else _main_worktree(project) or project


def _main_worktree(project: Path) -> Path | None:
    """Return the main worktree of a linked one; None for any other folder, or if the repository is bare."""
    try:
        # In a linked worktree `.git` is a file with the path of a folder, whose `commondir` names the repository's own.
        private = project / (project / ".git").read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        common = Path(os.path.normpath(private / (private / "commondir").read_text(encoding="utf-8").strip()))
    except (OSError, ValueError):
        return None
    return common.parent if common.name == ".git" and common.is_dir() else None


def store_at(folder: Path) -> str:
    """Return the path or URL of the store that pytest writes to in this folder if no option names one, or `none`.

    Raises:
        UsageError: pytest configurations below the folder name different stores.
    """
    project = project_of(folder, folder)
    return _configured_store(folder, project) or str(home_of(project) / STORE)


def unused_stores(folder: Path, store: str) -> list[Path]:
    """Return other stores between a folder and the top of its repository, which older versions may have left."""
    project = project_of(folder, folder)
    within = [each for each in (folder, *folder.parents) if each.is_relative_to(project)]
    return [each / STORE for each in within if str(each / STORE) != store and (each / STORE / "runs").is_dir()]


def shown_from(place: str, folder: Path) -> str:
    """Return a path as a user in this folder would write it: relative if it is below the folder."""
    path = Path(place)
    return path.relative_to(folder).as_posix() if "://" not in place and path.is_relative_to(folder) else place


# --- pytest's configuration ---


def configuration_of(folder: Path) -> Path | None:
    """Return the file at or above a folder that configures pytest."""
    found = (each / name for each in (folder, *folder.parents) for name in _CONFIGURATIONS)
    return next((path for path in found if path.is_file() and _configures(path)), None)


def _configures(path: Path) -> bool:
    return "pytest." in path.name or bool(_SECTION.search(path.read_text(encoding="utf-8", errors="replace")))


def _configured_store(folder: Path, project: Path) -> str | None:
    """Return `comfyload_store` from pytest's configuration at or above the folder, else from the suites below.

    Raises:
        UsageError: Suites below the folder name different stores.
    """
    nearest = configuration_of(folder)
    files = _configurations_below(project) if nearest is None else [nearest]
    stores = {store: path for path in files if (store := _store_in(path)) is not None}
    if len(stores) > 1:
        from pytest_comfyload.errors import UsageError

        named = ", ".join(f"{store} in {path}" for store, path in stores.items())
        raise UsageError(f"pytest's configurations name several stores: {named}; give --store")
    return next(iter(stores), None)


def _configurations_below(project: Path) -> Iterator[Path]:
    """Yield the configurations of suites such as `tests` or `tests/load`, no deeper: projects may have many files."""
    for name in _CONFIGURATIONS[:4]:
        for pattern in (f"*/{name}", f"*/*/{name}"):
            yield from sorted(project.glob(pattern))


def _store_in(path: Path) -> str | None:
    value = _options_in(path).get("comfyload_store")
    if not isinstance(value, str) or not value or value == STORE:
        return None
    return value if value == "none" or "://" in value else str(path.parent / Path(value).expanduser())


def _options_in(path: Path) -> dict[str, Any]:
    """Return pytest's options in a file; none if it cannot be read, which pytest itself will report."""
    try:
        if path.suffix != ".toml":
            from iniconfig import IniConfig

            sections = IniConfig(str(path)).sections
            return dict(sections.get("pytest") or sections.get("tool:pytest") or {})
        import tomllib

        content = tomllib.loads(path.read_text(encoding="utf-8"))
        tool = content.get("tool", {}).get("pytest", {})
        options = content.get("pytest") or tool.get("ini_options") or tool
    except Exception:  # from iniconfig, tomllib, the file system, and values that are not tables
        return {}
    return options if isinstance(options, dict) else {}
