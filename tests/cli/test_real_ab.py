"""`comfyload ab --node` on the real ComfyUI: two commits of a custom node, the second of which takes a fifth longer.

The node sleeps: shared machines stretch computation, and the verdict must not depend on that.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_comfyload.launch import ComfyInstall
from tests.launch.test_installation import checksum
from tests.run.test_custom_nodes import git

NODE = """
import time, torch

class TestNap:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seed": ("INT", {"default": 0, "min": 0, "max": 2**32})}}

    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "nap", "test"

    def nap(self, seed):
        time.sleep(SECONDS)
        return (torch.rand((1, 64, 64, 3), generator=torch.Generator().manual_seed(seed)),)

NODE_CLASS_MAPPINGS = {"TestNap": TestNap}
"""
WORKFLOW = {
    "1": {"class_type": "TestNap", "inputs": {"seed": 0}},
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}


@pytest.fixture
def command(real_comfyui_install: ComfyInstall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    install = real_comfyui_install
    for name, value in {**install.env, "TMPDIR": str(tmp_path / "temporary"), "COLUMNS": "400"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "temporary").mkdir()
    (tmp_path / "workflow.json").write_text(json.dumps(WORKFLOW))
    node = tmp_path / "nap"
    node.mkdir()
    git(node, "init", "-q", "-b", "main")
    for seconds in (0.4, 0.48):
        (node / "__init__.py").write_text(NODE.replace("SECONDS", f"{seconds}"))
        git(node, "add", "-A")
        git(node, "commit", "-q", "-m", f"{seconds} s")
    return [
        sys.executable, "-c", "from pytest_comfyload.cli import main; main()", "ab", "workflow.json",
        "--node", "nap", "--base", "main~1", "--comfyui-launch", str(install.main.parent),
        "--comfyui-python", str(install.python), "--comfyui-args", " ".join(install.args), "--iterations", "2",
    ]  # fmt: skip


@pytest.mark.long
def test_a_fifth_slower(command: list[str], real_comfyui_install: ComfyInstall, tmp_path: Path) -> None:
    before = checksum(real_comfyui_install.main.parent), checksum(tmp_path / "nap")
    ended = subprocess.run([*command, "--pairs", "7"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "B is worse: node_time[TestNap].p50 ×1.2" in ended.stdout or "×1.19" in ended.stdout
    commits = [git(tmp_path / "nap", "rev-parse", "--short=7", ref) for ref in ("main~1", "main")]
    assert f"  changed: custom node nap {' → '.join(commits)}" in ended.stdout
    assert "  pictures: 14 pairs of the same seeds, 14 of them identical" in ended.stdout
    assert (checksum(real_comfyui_install.main.parent), checksum(tmp_path / "nap")) == before
    assert list(tmp_path.glob("temporary/comfyload-*-launched/*")) == []


@pytest.mark.long
def test_killed_in_the_middle(command: list[str], real_comfyui_install: ComfyInstall, tmp_path: Path) -> None:
    before = checksum(real_comfyui_install.main.parent), checksum(tmp_path / "nap")
    with subprocess.Popen([*command, "--pairs", "2"], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr
        for line in child.stderr:
            if "pair 1 of 2" in line:
                break
        (pids,) = tmp_path.glob("temporary/comfyload-*-launched/*/pids")
        server = int(pids.read_text().split()[-1])
        child.kill()
        child.stderr.read()
    assert (checksum(real_comfyui_install.main.parent), checksum(tmp_path / "nap")) == before
    assert git(tmp_path / "nap", "worktree", "list").count("\n") == 0
    ended = subprocess.run([*command, "--pairs", "2"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 3, ended.stdout + ended.stderr
    assert list(tmp_path.glob("temporary/comfyload-*-launched/*")) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(server, signal.SIGKILL)
