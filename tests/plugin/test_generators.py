"""`--comfyload-tx`: loads from several processes, and what a test run reports when one of them dies."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_comfyload.history.store import Store
from tests.plugin.suite import Suite

pytest.importorskip("execnet")

LOAD = """
@load_scenario("txt2img", rate="60/min", duration="100s", fetch=False, max_send_lag="30s", warmup=1)
def test_it(load):
    assert load.success_rate == 100
    assert [each.lost for each in load.facts.generators] == [None, None]
"""
# Kills the second generator in the middle of the load.
STRIKE = """
import os, signal
from pytest_comfyload.run.distributed import DistributedLoad

taken, ended = DistributedLoad._taken, []

def strike(self, remote, outcome):
    ended.append(outcome)
    if len(ended) == 20:
        os.kill(self._remotes[1].channel.gateway._io.popen.pid, signal.SIGKILL)
    return taken(self, remote, outcome)

DistributedLoad._taken = strike
"""


def _states(folder: Path) -> list[str]:
    return [row.state for row in Store.open(str(folder / ".comfyload")).runs()]


def test_a_load_of_two_processes_is_one_run(suite: Suite) -> None:
    suite.write("test_it.py", LOAD)
    result = suite.run("--comfyload-tx=2*popen", "--comfyload-time-scale=50")
    result.assert_outcomes(passed=1)
    assert result.ret == 0
    assert _states(suite.folder) == ["valid"]


def test_a_test_fails_whose_load_lost_a_process_and_the_run_is_kept_as_incomplete(suite: Suite) -> None:
    suite.write("test_it.py", LOAD)
    (suite.folder / "conftest.py").write_text(STRIKE, encoding="utf-8")
    result = suite.run("--comfyload-tx=2*popen", "--comfyload-time-scale=50", "--comfyload-markdown=it.md")
    assert result.ret == 1
    (line,) = [line for line in result.outlines if line.startswith("  INCOMPLETE: ")]
    assert line.startswith("  INCOMPLETE: generator 2 of 2 (popen) was lost: its process has ended; the results of ")
    assert f"Not judged: {line.partition(': ')[2]}." in result.outlines
    assert "1 run incomplete" in (suite.folder / "it.md").read_text(encoding="utf-8")
    assert _states(suite.folder) == ["incomplete"]


def test_what_is_no_generator_is_refused_before_any_test(suite: Suite) -> None:
    suite.write("test_it.py", LOAD)
    result = suite.run_here("--comfyload-tx=gen1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert any("--comfyload-tx 'gen1' is not a generator; write popen, 4*popen" in line for line in result.errlines)
