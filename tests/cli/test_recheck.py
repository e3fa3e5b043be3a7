"""`comfyload recheck`: finds the tests of stored runs, and ends with pytest's exit status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pytest_comfyload.simulator import SimulatorProcess

LOAD_TEST = """
from pytest_comfyload import load_scenario

@load_scenario("txt2img", fetch=False, max_send_lag="30s", warmup=0, id={id!r})
class TestIt:
    def test_bound(self, load):
        assert load.total_time.p95 < {bound}
    def test_other(self, load):
        assert load.oom_errors == 0
"""


def _run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command that is installed beside this Python."""
    command = [str(Path(sys.executable).parent / words[0]), *words[1:]]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("series", [None, "nightly"])
def test_a_changed_bound_costs_no_load(tmp_path: Path, series: str | None) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    (tmp_path / "load").mkdir()
    file = tmp_path / "load" / "test_it.py"
    file.write_text(LOAD_TEST.format(bound=0.001, id=series), encoding="utf-8")
    with SimulatorProcess(time_scale=100.0) as server:
        assert _run(tmp_path, "pytest", "load", "--comfyui-url", server.url).returncode == 1
    assert _run(tmp_path / "load", "comfyload", "recheck", "latest").returncode == 1
    file.write_text(LOAD_TEST.format(bound=60, id=series), encoding="utf-8")
    ended = _run(tmp_path / "load", "comfyload", "recheck", "latest")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 passed" in ended.stdout
    ended = _run(tmp_path, "comfyload", "recheck", "latest", "load/test_it.py::TestIt::test_bound", "-q")
    assert "1 passed" in ended.stdout
    file.rename(tmp_path / "load" / "test_that.py")
    ended = _run(tmp_path, "comfyload", "recheck", "latest")
    assert ended.returncode == 2
    assert "name it: comfyload recheck REF TEST" in ended.stderr
