"""Git repositories, independent of the CI that runs the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.history.repository import Repository


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.begin(tmp_path / "repository")
