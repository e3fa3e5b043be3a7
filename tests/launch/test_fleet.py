"""Servers of an installation are started, kept alive and stopped together; its ComfyUI is the simulator."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_comfyload.errors import ServerError, UsageError
from pytest_comfyload.launch.fleet import LaunchedServers, LaunchPlan, planned_servers
from pytest_comfyload.launch.installation import install_at
from pytest_comfyload.launch.workspace import read_states
from pytest_comfyload.user_paths import private_folder
from tests.launch.fake_installation import installation
from tests.launch.test_installation import checksum


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return private_folder("launched", make=True)


def _plan(tmp_path: Path, *args: str, devices: tuple[str, ...] = ("",)) -> LaunchPlan:
    return LaunchPlan(install_at(installation(tmp_path / "ComfyUI"), args=args), devices)


def _eventually(ask: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not ask():
        assert time.monotonic() < deadline, "it did not come in a minute"
        time.sleep(0.05)


def _answers(url: str) -> bool:
    with urllib.request.urlopen(f"{url}/system_stats", timeout=10) as response:
        return bool(response.status == 200)


def test_each_gpu_has_a_server_with_directories_of_its_own(tmp_path: Path, root: Path) -> None:
    plan = _plan(tmp_path, devices=("GPU-1", "GPU-2"))
    before = checksum(tmp_path / "ComfyUI")
    with LaunchedServers(plan, tmp_path / "logs") as launched:
        assert all(map(_answers, launched.urls))
        assert [server.state.gpu for server in launched.servers] == ["GPU-1", "GPU-2"]
        assert all(len(server.state.starts) == 1 and server.state.starts[0] > 0 for server in launched.servers)
        started = [json.loads(path.read_text()) for path in sorted(root.glob("*/server*/started.json"))]
        assert [each["gpu"] for each in started] == ["GPU-1", "GPU-2"]
        assert len({each["cwd"] for each in started}) == 2
        pids = [server.pid for server in launched.servers]
    assert list(root.iterdir()) == []
    assert checksum(tmp_path / "ComfyUI") == before
    assert [path.read_text().startswith("starting") for path in (tmp_path / "logs").iterdir()] == [True, True]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_one_that_dies_is_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    with LaunchedServers(_plan(tmp_path), tmp_path / "logs", said.append) as launched:
        (server,) = launched.servers
        url, pid = server.url, server.pid
        server.kill()
        _eventually(lambda: len(server.state.starts) == 2)
        assert (server.url, server.state.deaths) == (url, ("was killed by signal 9",))
        assert server.pid != pid
        assert _answers(url)
        assert read_states(launched.states_file) == launched.states()
        file = launched.states_file
    assert read_states(file) == ()
    assert said[0] == f"comfyload: {url} was killed by signal 9; {server.log} is its log"
    assert said[1].startswith(f"comfyload: {url} is ready again after")


def test_one_that_is_stopped_while_it_starts_again(tmp_path: Path) -> None:
    launched = LaunchedServers(_plan(tmp_path), tmp_path / "logs").start()
    (server,) = launched.servers
    server.kill()
    _eventually(lambda: server.state.deaths != ())
    launched.stop()
    launched.stop()
    with pytest.raises(UsageError, match="not started"):
        _ = server.pid


def test_one_that_does_not_start_leaves_nothing(tmp_path: Path, root: Path) -> None:
    with pytest.raises(ServerError, match=r"exited with status 1 before it was ready\n.*\nstarting\nno module named"):
        LaunchedServers(_plan(tmp_path, "--broken", devices=("", ""))).start()
    assert list(root.iterdir()) == []


def test_few_old_logs_are_kept(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    for number in range(30):
        path = logs / f"comfyui-old-{number}.log"
        path.touch()
        os.utime(path, (number, number))
    with LaunchedServers(_plan(tmp_path), logs) as launched:
        kept = set(logs.iterdir()) - {launched.servers[0].log}
    assert kept == {logs / f"comfyui-old-{number}.log" for number in range(10, 30)}


@pytest.mark.parametrize(
    ("gpus", "args", "count", "expected"),
    [
        ([], [], None, ("",)),
        ([], [], 3, ("", "", "")),
        (["GPU-1", "GPU-2"], [], None, ("GPU-1", "GPU-2")),
        (["GPU-1", "GPU-2"], [], 1, ("GPU-1",)),
        (["GPU-1", "GPU-2"], ["--cpu"], None, ("",)),
    ],
)
def test_how_many(
    tmp_path: Path, gpus: list[str], args: list[str], count: int | None, expected: tuple[str, ...]
) -> None:
    install = install_at(installation(tmp_path), args=args)
    assert planned_servers(install, gpus, count) == expected


def test_more_servers_than_gpus(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="3 servers are requested, but there are only 1 GPUs"):
        planned_servers(install_at(installation(tmp_path)), ["GPU-1"], 3)
