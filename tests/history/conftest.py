"""Repositories, away from whatever CI runs this."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.history.repository import Repository


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.begin(tmp_path / "repository")
