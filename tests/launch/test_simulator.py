from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any

import pytest

from pytest_comfyload.errors import GeneratorError, UsageError
from pytest_comfyload.launch.simulator import SimulatorProcess

PARENT = """
import sys
from pytest_comfyload.launch.simulator import SimulatorProcess
server = SimulatorProcess(time_scale=20.0)
print(server.url, flush=True)
sys.stdin.read()
"""
IMPORT = "import sys, pytest_comfyload.simulator; print(sorted({'aiohttp', 'PIL'} & set(sys.modules)))"


def stats(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/system_stats", timeout=10) as response:
        return dict(json.load(response))


def test_the_settings_reach_the_child_and_it_ends_when_stopped() -> None:
    settings: dict[str, Any] = {"gpu": "a100", "time_scale": 30.0, "probe_nodes": True, "stock_models": False}
    with SimulatorProcess(models={"checkpoints": ["my model.safetensors"]}, **settings) as server:
        assert stats(server.url)["system"]["simulator"] == {"time_scale": 30.0, "gpu": "a100", "guessed_times": []}
        with urllib.request.urlopen(f"{server.url}/models/checkpoints", timeout=10) as response:
            assert json.load(response) == ["my model.safetensors"]
        with urllib.request.urlopen(f"{server.url}/object_info/ProbeSleep", timeout=10) as response:
            assert json.load(response)
    with pytest.raises(urllib.error.URLError):
        stats(server.url)


def test_stopping_twice_is_harmless() -> None:
    server = SimulatorProcess()
    server.stop()
    server.stop()


def test_a_bad_setting_is_refused_before_anything_starts() -> None:
    with pytest.raises(UsageError, match="unknown GPU 'voodoo2'"):
        SimulatorProcess(gpu="voodoo2")


def test_a_child_that_is_not_ready_in_time_is_ended_and_named() -> None:
    with pytest.raises(GeneratorError, match=r"did not start within 0\.001 s"):
        SimulatorProcess(timeout=0.001)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_it_ends_with_a_parent_that_was_killed() -> None:
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", PARENT], text=True, **pipes) as parent:
        assert parent.stdout
        assert parent.stderr
        url = parent.stdout.readline().strip()
        assert stats(url)
        parent.send_signal(signal.SIGKILL)
        # The server inherited its parent's stderr: the pipe is closed once both have exited.
        assert parent.stderr.read() == ""
    with pytest.raises(urllib.error.URLError):
        stats(url)


def test_importing_the_room_loads_no_server() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
