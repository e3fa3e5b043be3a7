from __future__ import annotations

from pathlib import Path

import pytest

from pytest_comfyload.errors import UsageError, WorkflowError
from pytest_comfyload.workflow.texts import read_text


def test_the_root_comes_before_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, cwd = tmp_path / "root", tmp_path / "cwd"
    for folder in (root, cwd):
        folder.mkdir()
        (folder / "a.txt").write_text(folder.name)
    (cwd / "b.txt").write_text("only here")
    monkeypatch.chdir(cwd)
    assert read_text("a.txt", root) == "root"
    assert read_text("b.txt", root) == "only here"
    assert read_text("a.txt", None) == "cwd"
    assert read_text(root / "a.txt", None) == "root"


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert read_text("a.txt", tmp_path) == "hello"


def test_what_cannot_be_read_is_the_users_error_of_the_asked_type(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(WorkflowError, match=r"latin\.txt is not UTF-8 text"):
        read_text("latin.txt", tmp_path, WorkflowError)
    with pytest.raises(UsageError, match=r"no file 'none\.txt' in "):
        read_text("none.txt", tmp_path)
    with pytest.raises(UsageError, match="cannot read"):
        read_text(tmp_path, None)
    with pytest.raises(UsageError, match="cannot read"):
        read_text("a\0b", tmp_path)
