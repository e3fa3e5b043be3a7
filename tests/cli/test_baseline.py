"""`comfyload baseline` runs pytest several times; the repository has a commit, so that the runs count."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.history.repository import Repository


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.begin(tmp_path / "project")


def _baseline(repository: Repository, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from pytest_comfyload.cli import main; main()", "baseline", *arguments],
        cwd=repository.path,
        capture_output=True,
        text=True,
        timeout=60,
    )


def _commit(repository: Repository, body: str) -> None:
    (repository.path / "test_it.py").write_text(body, encoding="utf-8")
    repository.git("add", "test_it.py")
    repository.commit("one")


# Each session leaves a mark.
MARK = 'open("sessions", "a").write("x")'


def test_so_many_sessions_run_even_if_tests_fail(repository: Repository) -> None:
    (repository.path / "pytest.ini").write_text("[pytest]\ncomfyload_fail_on_regression = true\n", encoding="utf-8")
    _commit(
        repository,
        "def test_it(request):\n"
        f"    {MARK}\n"
        '    assert request.config.getini("comfyload_fail_on_regression") is False\n'
        "    assert False\n",
    )
    done = _baseline(repository, "--runs", "2", "--", "-q", "-p", "no:cacheprovider", "test_it.py")
    assert done.returncode == 1
    assert (repository.path / "sessions").read_text() == "xx"
    assert "2 sessions ran; tests failed in 2 of them" in done.stderr
    assert "assert False" in done.stdout


def test_what_cannot_run_is_not_run_again(repository: Repository) -> None:
    _commit(repository, f"{MARK}\nraise SystemError\n")
    done = _baseline(repository, "-q", "-p", "no:cacheprovider")
    assert done.returncode == 2
    assert (repository.path / "sessions").read_text() == "x"
    assert "session 1 of 3 ended with status 2; stopped" in done.stderr


def test_uncommitted_changes_are_refused(repository: Repository) -> None:
    _commit(repository, MARK)
    (repository.path / "test_it.py").write_text("changed", encoding="utf-8")
    done = _baseline(repository)
    assert done.returncode == 2
    assert "their runs are no baseline; commit or stash them first:\nM test_it.py" in done.stderr
    assert not (repository.path / "sessions").exists()
