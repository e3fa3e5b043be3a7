"""The project of a session: its spools, the configuration that pytest should read, and the package around its tests."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from pytest_comfyload.history.location import STORE, configuration_of, home_of, project_of

__all__ = ["may_have_spools", "package_error", "package_hint", "refuse_lost_configuration", "session_project"]

# In the traceback of a failed import: the module, the line of an __init__.py, and the error.
_MODULE = re.compile(r"ImportError while importing test module '([^'{}]+)'")
_PACKAGE = re.compile(r"^(?:E +)?\S*__init__\.py:\d+: in <module>$", re.MULTILINE)
_ERROR = re.compile(r"^(?:E +)+(?:\w+Error: )(.*)$", re.MULTILINE)


def session_project(config: pytest.Config) -> Path:
    """Return the project of the first test path on the command line or in the configuration."""
    started = config.invocation_params.dir
    return project_of(_first_folder(config), started)


def may_have_spools(project: Path) -> bool:
    """Return whether runs of a project may wait to be stored: in its home or, if that is not writable, elsewhere."""
    home = home_of(project)
    return any((home / STORE / "spool").glob("*.jsonl")) or not os.access(home, os.W_OK)


def refuse_lost_configuration(config: pytest.Config, options: Sequence[str]) -> None:
    """Refuse one of our `options` in a spelling that made pytest read the wrong configuration, or none.

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


def package_hint(config: pytest.Config, errors: Iterable[object]) -> str | None:
    """Return what to do if pytest could not import the package around a load test, such as that of a custom node.

    Args:
        errors: Reports of tests and modules that failed before their tests began.
    """
    for report in errors:
        failure = _package_failure(str(getattr(report, "longreprtext", "")))
        if failure and _is_ours(config, report):
            reason = f" ({failure.reason})" if failure.reason else ""
            return f"hint: pytest imports the __init__.py around the tests, which fails here{reason}. {_KEEP_APART}"
    return None


def package_error(text: str) -> str | None:
    """Return one line instead of the traceback `text`, if it is about the import of the package around a load test."""
    failure = _package_failure(text)
    if failure is None:
        return None
    reason = f": {failure.reason}" if failure.reason else ""
    return f"pytest cannot import {failure.file}, the package around this test{reason}. {_KEEP_APART}"


_KEEP_APART = (
    "Keep load tests in a folder with a pytest.ini and without an __init__.py: `comfyload init` writes one, load_tests"
)


class _PackageFailure(NamedTuple):
    file: str
    reason: str


def _package_failure(text: str) -> _PackageFailure | None:
    module = _MODULE.search(text)
    if module is None or not _PACKAGE.search(text):
        return None
    why = [found for found in _ERROR.findall(text) if "importing test module" not in found]
    return _PackageFailure(module[1], why[-1] if why else "")


def _is_ours(config: pytest.Config, report: object) -> bool:
    """Return whether the file of a report contains load tests."""
    file = config.rootpath / str(getattr(report, "nodeid", "")).partition("::")[0]
    try:
        return "comfyload" in file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
