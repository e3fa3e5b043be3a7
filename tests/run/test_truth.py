"""A load whose times are not credible says so: saturated and stalled generators, servers with nonsensical stamps."""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import PHASES
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.scenario.scenario import Scenario
from tests.run.fast_server import GRAPH, MILLISECONDS, fast_server

WORK = 0.02


def loaded(folder: Path, users: int, prompts: int, stamp: str = MILLISECONDS, **arguments: Any) -> LoadResult:
    colors = {"EmptyImage.color": list(range(9000))}
    scenario = Scenario.build(GRAPH, users=users, shared_iterations=prompts, inputs=colors, warmup=1, **arguments)
    with fast_server(WORK, stamp) as url:
        return run_load(LoadRun(scenario, (ServerAddress.parse(url),), "a title", folder, folder))


def test_a_saturated_generator_never_passes_as_valid(tmp_path: Path) -> None:
    load = loaded(tmp_path, users=100, prompts=400)
    assert load.success_rate == 100
    assert load.total_time.p50 > 2 * WORK
    assert load.state == "invalid"
    assert (load.invalid_because or "").startswith("the generator was ")
    assert "use fewer users or a faster machine" in (load.invalid_because or "")
    # The reported generator lag explains the excess time, and no clock step of the server is reported.
    unexplained = float(load.total_time.p50) - float(load.generator_lag.p50) - float(load.generation_time.p50)
    assert abs(unexplained) < 0.3 * float(load.total_time.p50)
    assert not [note for note in load.facts.notes if "clock" in note or "stamps" in note]
    assert load.void == 0


def test_a_valid_run_is_near_the_truth(tmp_path: Path) -> None:
    load = loaded(tmp_path, users=1, prompts=30, fetch=False)
    served = float(load.total_time.p50) - float(load.generation_time.p50)
    assert load.state == "invalid" or served < 0.015
    assert load.generator_lag.p50 <= load.total_time.p50


@pytest.mark.parametrize(
    "stamp",
    [
        pytest.param("int(now)", id="seconds for milliseconds"),
        pytest.param("__import__('random').randrange(2**41)", id="random"),
        pytest.param("None", id="missing"),
        pytest.param("int(now * 1000) - int(now * 20) % 2 * 5000", id="jumping back"),
    ],
)
def test_stamps_that_cannot_be_right_leave_the_clients_own_times(tmp_path: Path, stamp: str) -> None:
    load = loaded(tmp_path, users=3, prompts=24, stamp=stamp, max_send_lag="30s")
    assert load.success_rate == 100
    assert "time stamps cannot be right" in (load.invalid_because or "")
    assert load.total_time.min >= WORK
    assert load.total_time.n == 24
    assert load.queue_time.n == load.generation_time.n == 24 - int(load.void)
    times = [getattr(outcome, phase) for outcome in load.outcomes for phase in PHASES]
    assert all(time is None or (math.isfinite(time) and time >= 0) for time in times)
    assert '":-' not in json.dumps(load.to_dict()["total_time"], separators=(",", ":"))


STOPPED = 2.0
PROGRAM = """
import json, sys
from pathlib import Path
from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.run.observer import RunObserver
from pytest_comfyload.scenario.scenario import Scenario

url, folder = sys.argv[1:]
arguments = dict(inputs={"KSampler.steps": 8}, fetch=False, max_send_lag="300ms")
scenario = Scenario.build("txt2img", users=3, iterations=5, **arguments)

class Printing(RunObserver):
    def on_progress(self, progress):
        print(progress, flush=True)

run = LoadRun(scenario, (ServerAddress.parse(url),), "t", Path(folder), Path(folder), observer=Printing())
print("RESULT", json.dumps(run_load(run).to_dict()))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no SIGSTOP here")
def test_a_frozen_generator_is_found_in_a_closed_load(tmp_path: Path) -> None:
    with SimulatorProcess(time_scale=4) as server:
        command = [sys.executable, "-c", PROGRAM, server.url, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if (seen := re.search(r"done=(\d+)", line)) and int(seen[1]) > 2:
                    break
            process.send_signal(signal.SIGSTOP)
            time.sleep(STOPPED)
            process.send_signal(signal.SIGCONT)
            result = json.loads(process.stdout.read().partition("RESULT ")[2])
    assert result["state"] == "invalid"
    assert result["invalid_because"].startswith("the generator ")
    assert result["worst_loop_lag"] > 0.9 * STOPPED
    assert 1 <= result["stalled"] <= 12
    assert any(note.startswith("the generator stalled ") for note in result["notes"])
    assert not any("clock" in note for note in result["notes"])
