"""A change from its commit to the verdict, as a user does it: a suite in a repository, pytest, `comfyload compare`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.history.repository import Repository
from tests.plugin.suite import ALONE

# Enough steps that other load on this machine cannot outweigh them; anything less than twice as slow is noise.
FEW, MANY = 2, 40
NOISE = ["--min-effect", "100"]

SUITE = """
from pytest_comfyload import load_scenario

SMALL = {{
    "CheckpointLoaderSimple.ckpt_name": "tiny_sd15.safetensors",
    "EmptyLatentImage.width": 64,
    "EmptyLatentImage.height": 64,
    "KSampler.steps": {steps},
}}

@load_scenario("txt2img", users=1, iterations=3, inputs=SMALL, max_send_lag="30s")
def test_it(load):
    assert load.success_rate == 100
"""


class _Project:
    """A repository with a suite, and the server that the suite runs against."""

    def __init__(self, folder: Path, url: str) -> None:
        self.repository = Repository.begin(folder)
        self._folder, self._url = folder, url

    def commit(self, title: str, steps: int) -> None:
        (self._folder / "test_it.py").write_text(SUITE.format(steps=steps), encoding="utf-8")
        self.repository.git("add", "test_it.py")
        self.repository.commit(title)

    def run(self, times: int = 1, *options: str, expected: int = 0) -> None:
        for _ in range(times):
            self._done([sys.executable, "-m", "pytest", "-q", *ALONE, "--comfyui-url", self._url, *options], expected)

    def compare(self, expected: int) -> str:
        comfyload = shutil.which("comfyload", path=str(Path(sys.executable).parent))
        assert comfyload is not None
        return self._done([comfyload, "compare", "main", "HEAD", "--fail-on-regression", *NOISE], expected)

    def _done(self, command: list[str], expected: int) -> str:
        wide = {**os.environ, "COLUMNS": "400"}
        done = subprocess.run(
            command, cwd=self._folder, env=wide, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == expected, done.stdout + done.stderr
        return done.stdout


@pytest.mark.long
def test_a_slower_commit_is_found_and_one_without_a_change_is_not(
    real_comfyui: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COMFYUI_URL", "GITHUB_ACTIONS", "GITHUB_SHA"):
        monkeypatch.delenv(name, raising=False)
    project = _Project(tmp_path, real_comfyui)
    project.commit("base", FEW)
    project.run(10)

    project.repository.git("switch", "-q", "-c", "change")
    project.repository.commit("nothing that matters")
    project.run()
    verdict, *_ = project.compare(expected=0).split()
    assert verdict in ("unchanged", "inconclusive", "improved")

    project.commit("more steps", MANY)
    project.run(1, "--comfyload-fail-on-regression", expected=1)
    said = project.compare(expected=1)
    assert said.startswith("regressed     test_it.py::test_it: generation_time.p50 +"), said
    assert " (3 runs); limit " in said
    assert "  against main" in said
    assert "  moved: KSampler " in said
    assert f"  changed: KSampler.steps {FEW} → {MANY}" in said
