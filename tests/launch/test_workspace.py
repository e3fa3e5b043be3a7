"""What a killed process leaves behind is removed at the next start; nothing of a running process is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pytest_comfyload.launch.workspace import Workspace
from pytest_comfyload.user_paths import private_folder


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return private_folder("launched", make=True)


def _left_behind(tmp_path: Path, command: str) -> tuple[Path, int]:
    """Return the workspace of a killed process and the id of its child; `command` is the child's last argument."""
    script = f"""
        import os, signal, subprocess, sys, tempfile
        tempfile.tempdir = {str(tmp_path)!r}
        from pytest_comfyload.launch.workspace import Workspace
        workspace = Workspace()
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", {command}],
                                 start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        workspace.note_server(child.pid)
        print(workspace.folder, child.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    lines = [line[8:] for line in script.splitlines()]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    folder, pid = done.stdout.split()
    return Path(folder), int(pid)


def _is_running(pid: int) -> bool:
    """Return whether a process is running; an orphan whose new parent does not reap it stays a zombie."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def test_it_goes_with_its_process(root: Path) -> None:
    with Workspace() as workspace:
        assert workspace.folder.is_dir()
        with Workspace():
            assert workspace.folder.is_dir()
    assert list(root.iterdir()) == []


def test_a_killed_process_leaves_nothing_after_the_next_start(root: Path, tmp_path: Path) -> None:
    folder, pid = _left_behind(tmp_path, "str(workspace.folder)")
    assert folder.is_dir()
    assert _is_running(pid)
    with Workspace() as workspace:
        assert not folder.exists()
        assert [path.stem for path in root.iterdir()] == [workspace.folder.name] * 2
    subprocess.run(["sleep", "0.2"], check=True)
    assert not _is_running(pid)


def test_another_process_of_the_same_id_lives(tmp_path: Path) -> None:
    """The process's command line does not contain the folder."""
    folder, pid = _left_behind(tmp_path, "'something else'")
    try:
        with Workspace():
            assert not folder.exists()
        assert _is_running(pid)
    finally:
        subprocess.run(["kill", "-9", str(pid)], check=True)
