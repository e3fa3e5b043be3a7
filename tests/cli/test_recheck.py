"""`comfyload recheck` finds the tests of stored runs, and exits with pytest's exit status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pytest_comfyload.launch.simulator import SimulatorProcess

LOAD_TESTS = """
from pytest_comfyload import load_scenario

QUICK = dict(fetch=False, max_send_lag="30s", warmup=0)

@load_scenario("txt2img", **QUICK)
class TestByName:
    def test_bound(self, load):
        assert load.total_time.p95 < {bound}
    def test_other(self, load):
        assert load.oom_errors == 0

@load_scenario("txt2img", **QUICK, id="nightly")
def test_by_id(load):
    assert load.success_rate == 100

def test_unrelated():
    assert False
"""


def _run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command installed next to this Python."""
    command = [str(Path(sys.executable).parent / words[0]), *words[1:]]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_a_changed_bound_costs_no_load(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    (tmp_path / "load").mkdir()
    file = tmp_path / "load" / "test_it.py"
    file.write_text(LOAD_TESTS.format(bound=0.001), encoding="utf-8")
    with SimulatorProcess(time_scale=100.0) as server:
        _run(tmp_path, "pytest", "load", "--comfyui-url", server.url)
    ended = _run(tmp_path / "load", "comfyload", "recheck", "latest")
    assert ended.returncode == 1
    assert "1 failed, 2 passed" in ended.stdout
    file.write_text(LOAD_TESTS.format(bound=60), encoding="utf-8")
    ended = _run(tmp_path, "comfyload", "recheck", "latest", "load/test_it.py::TestByName", "-k", "bound")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "1 passed, 1 deselected" in ended.stdout
    file.rename(tmp_path / "load" / "test_that.py")
    ended = _run(tmp_path, "comfyload", "recheck", "latest")
    assert ended.returncode == 2
    assert "name it: comfyload recheck REF TEST" in ended.stderr
