"""The project of a test: what its runs are named after, which commit they are of, and where they are kept.

It is found from the test file alone. pytest's rootdir is no help: it is chosen before the plugin's options are known,
so that in `--comfyload-store DIR` pytest takes DIR for a test path and moves the rootdir.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

__all__ = ["may_have_spools", "project_of", "refuse_lost_configuration", "session_project"]

# In the order in which pytest reads them; outside of a repository one of these marks the top of a project.
_CONFIGURATIONS = (
    "pytest.toml", ".pytest.toml", "pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg"
)  # fmt: skip
_MARKS = (*_CONFIGURATIONS, "setup.py")
_SECTION = re.compile(r"^\[(tool[.:])?pytest[.\]]", re.MULTILINE)


@functools.cache
def project_of(folder: Path, started: Path) -> Path:
    """Return the top of the repository that a folder is in.

    Outside of a repository it is the nearest folder with a configuration file, or else `started`, where pytest was.
    git itself is not asked: it may be missing or refuse the repository, and a run is named the same all the same.
    """
    for marks in ((".git",), _MARKS):
        for each in (folder, *folder.parents):
            if any((each / mark).exists() for mark in marks):
                return each
    return started if folder.is_relative_to(started) else folder


def session_project(config: pytest.Config) -> Path:
    """Return the project of the first test path of the command line or the configuration."""
    started = config.invocation_params.dir
    return project_of(_first_folder(config), started)


def may_have_spools(project: Path) -> bool:
    """Return whether runs wait there to be stored; where the project cannot be written to, they may be elsewhere."""
    return any((project / ".comfyload" / "spool").glob("*.jsonl")) or not os.access(project, os.W_OK)


def refuse_lost_configuration(config: pytest.Config, options: Sequence[str]) -> None:
    """Refuse one of our `options` in a spelling that made pytest read another configuration, or none.

    Raises: UsageError.
    """
    words = [str(word) for word in config.invocation_params.args]
    for option, value in itertools.pairwise(words):
        if option in options and not value.startswith("-") and (config.invocation_params.dir / value).exists():
            wanted = _configuration(_first_folder(config))
            if wanted not in (None, config.inipath) and not config.getoption("inifilename"):
                from pytest_comfyload.errors import UsageError

                raise UsageError(
                    f"pytest takes {value} of `{option} {value}` for the path of a test and reads "
                    f"{config.inipath or 'no configuration'} instead of {wanted}; write {option}={value}"
                )


def _first_folder(config: pytest.Config) -> Path:
    started = config.invocation_params.dir
    path = started / config.args[0].partition("::")[0] if config.args else started
    folder = path if path.is_dir() else path.parent
    return Path(os.path.normpath(folder if folder.is_dir() else started))


def _configuration(folder: Path) -> Path | None:
    """Return the file at or above a folder that configures pytest."""
    found = (each / name for each in (folder, *folder.parents) for name in _CONFIGURATIONS)
    return next((path for path in found if path.is_file() and _configures(path)), None)


def _configures(path: Path) -> bool:
    if "pytest." in path.name:
        return True
    return bool(_SECTION.search(path.read_text(encoding="utf-8", errors="replace")))
