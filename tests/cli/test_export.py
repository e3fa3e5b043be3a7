"""`comfyload report` as a person types it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.report.html.stores import small_store

pytest.importorskip("jinja2")


def _report(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = shutil.which("comfyload", path=str(Path(sys.executable).parent))
    assert command is not None
    return subprocess.run([command, "report", *arguments], capture_output=True, text=True, cwd=folder, timeout=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    small_store(folder / ".comfyload")
    return folder


def test_the_store_nearest_above_becomes_a_folder_of_pages(folder: Path) -> None:
    ended = _report(folder, "--pages", "3")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "written: .comfyload/report/index.html\n"
    written = folder / ".comfyload" / "report"
    assert len(list((written / "commits").iterdir())) == 3
    assert (written / "compare.html").is_file()


def test_what_was_written_for_programs(folder: Path) -> None:
    ended = _report(folder, "--pages", "2", "--json", "--output", "site")
    said = json.loads(ended.stdout)
    assert {name: said[name] for name in ("schema", "path", "runs", "simulated")} == {
        "schema": "comfyload.report/1", "path": "site/index.html", "runs": 82, "simulated": "none",
    }  # fmt: skip
    assert set(said["headline"]) == {"level", "sentence", "details"}
    assert said["newest_commit"] in said["commits"]
    assert len(said["commits"]) == 2
    assert all((folder / path).is_file() for path in said["commits"].values())


def test_without_a_screen_the_address_is_printed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    ended = _report(folder, "--pages", "0", "--output", "site", "--open")
    assert ended.stdout.splitlines() == [
        "written: site/index.html",
        f"open in a browser: {(folder / 'site' / 'index.html').as_uri()}",
    ]


def test_one_file_for_one_branch(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "out" / "report.html"
    ended = _report(folder, "--html", str(file), "--branch", "feature/faster", "--limit", "2")
    assert (ended.returncode, ended.stdout) == (0, f"written: {file}\n")
    text = file.read_text(encoding="utf-8")
    assert "of 2 commits" in text
    assert "feature/faster" in text
    assert [each.name for each in file.parent.iterdir()] == ["report.html"]


def test_what_cannot_be_done_is_said_in_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for arguments, message in (
        (("--branch", "nowhere"), "comfyload: no runs of branch 'nowhere' in "),
        (("--store", str(tmp_path / "none")), "comfyload: no store in "),
        (("--output", str(tmp_path / "file" / "site")), "comfyload: the report cannot be written: "),
        (("--serve", "--html", "x.html"), "comfyload: --serve serves a folder of pages; leave out --html"),
    ):
        ended = _report(folder, *arguments)
        assert ended.returncode == 2
        assert ended.stderr.startswith(message)
        assert ended.stderr.count("\n") == 1
