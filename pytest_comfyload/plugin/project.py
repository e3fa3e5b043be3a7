"""The project of a session, by its first test path: where its runs wait, and which configuration pytest should read."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from pytest_comfyload.history.location import STORE, configuration_of, home_of, project_of

__all__ = ["may_have_spools", "refuse_lost_configuration", "session_project"]


def session_project(config: pytest.Config) -> Path:
    """Return the project of the first test path of the command line or the configuration."""
    started = config.invocation_params.dir
    return project_of(_first_folder(config), started)


def may_have_spools(project: Path) -> bool:
    """Return whether its runs wait to be stored; where its store cannot be written to, they may be elsewhere."""
    home = home_of(project)
    return any((home / STORE / "spool").glob("*.jsonl")) or not os.access(home, os.W_OK)


def refuse_lost_configuration(config: pytest.Config, options: Sequence[str]) -> None:
    """Refuse one of our `options` in a spelling that made pytest read another configuration, or none.

    Raises: UsageError.
    """
    words = [str(word) for word in config.invocation_params.args]
    for option, value in itertools.pairwise(words):
        if option in options and not value.startswith("-") and (config.invocation_params.dir / value).exists():
            wanted = configuration_of(_first_folder(config))
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
