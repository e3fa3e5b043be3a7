"""`comfyload top`: figures checked against closed forms, and the screen as a terminal shows it."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from rich.console import Console, Group

from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.monitor.ended_prompt import EndedPrompt
from pytest_comfyload.monitor.server_record import RecentPrompts, ServerRecord
from pytest_comfyload.monitor.top import ASCII_BLOCKS, FIGURES, TopView
from pytest_comfyload.result.telemetry import GpuSample
from tests.monitor.prometheus_server import eventually
from tests.monitor.test_monitor import COMFYLOAD, label, load

GIB = 2.0**30


def ended(at: float, duration: float = 2.0, status: str = "success", cached: bool = False) -> EndedPrompt:
    return EndedPrompt(
        str(at), status, None, at - duration, at - duration, at, cached, 20, 1 if status == "success" else 0
    )


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def test_recent_figures_are_of_the_last_five_minutes_of_the_servers_clock() -> None:
    clock = Clock()
    recent = RecentPrompts(clock)
    assert (recent.durations, recent.success_rate, recent.images_per_minute) == ([], None, None)
    # One every 6 s for 10 min, of which every second one takes 4 s.
    recent.add([ended(1000.0 + 6 * n, 2.0 if n % 2 else 4.0) for n in range(100)])
    assert len(recent.durations) == 50
    assert (recent.durations[0], recent.durations[-1]) == (2.0, 4.0)
    assert recent.images_per_minute == pytest.approx(10.0, rel=0.01)
    recent.add([ended(1594.1, status="error"), ended(1594.2, 0.1, cached=True)])
    assert recent.success_rate == pytest.approx(100 * 51 / 52)
    assert len(recent.durations) == 50
    clock.now += 240
    assert len(recent.durations) == 10
    clock.now += 300
    assert (recent.durations, recent.success_rate, recent.images_per_minute) == ([], None, 0.0)


def test_a_simulated_servers_clock_runs_faster() -> None:
    clock = Clock()
    recent = RecentPrompts(clock)
    recent.scale = 100.0
    recent.add([ended(1000.0), ended(1002.0)])
    clock.now += 2.97
    assert len(recent.durations) == 2
    clock.now += 0.02
    assert len(recent.durations) == 1


def known() -> ServerRecord:
    record = ServerRecord("gpu1:8188", up=True, version="0.3.75", waiting=12, running=1)
    record.gpu_samples = {
        "a": GpuSample("s", "a", 0.0, utilization=80.0, memory_used=4 * GIB, memory_total=24 * GIB, temperature=60.0),
        "b": GpuSample("s", "b", 0.0, utilization=90.0, memory_used=8 * GIB, memory_total=24 * GIB, temperature=70.0),
    }
    record.recent.add([ended(100.0 + n, 1.0 + n / 100) for n in range(100)])
    return record


def test_every_figure_is_in_the_json_and_on_the_screen() -> None:
    view = TopView([known()])
    view.update()
    (data,) = view.data()
    assert data["gpu_utilization_percent"] == 85
    assert (data["gpu_memory_used_bytes"], data["gpu_memory_total_bytes"]) == (12 * GIB, 48 * GIB)
    assert data["gpu_temperature_celsius"] == 70
    assert (data["queue_pending"], data["queue_running"]) == (12, 1)
    assert data["generation_time_mean_seconds"] == pytest.approx(1.495)
    assert data["generation_time_p95_seconds"] == pytest.approx(1.94)
    assert data["images_per_minute"] == pytest.approx(60.0, rel=0.02)
    assert data["success_rate_percent"] == 100
    screen = "\n".join(line.plain for line in view.lines(80))
    assert all(figure.label in screen for figure in FIGURES)
    for value in ("85 %", "12.0/48.0 GiB", "70 °C", "1.50 s", "1.94 s", "100.0 %", "gpu1:8188 up, ComfyUI 0.3.75"):
        assert value in screen


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_lines_fit_into_the_terminal(width: int) -> None:
    view = TopView([known(), ServerRecord("gpu2:8188"), ServerRecord("gpu3:8188", error="x " * 150)])
    for _ in range(20):
        view.update()
    with io.StringIO() as file:
        console = Console(file=file, width=width)
        console.print(Group(*view.screen(width, 100)))
        shown = file.getvalue().splitlines()
    assert max(map(len, shown)) <= width
    rows = math.ceil(len(FIGURES) / (width // 40))
    # A server that is down takes one line; blank lines are between servers.
    assert len(shown) == (1 + rows) + 1 + (1 + rows) + 1 + 1 + 1


@pytest.mark.parametrize(("height", "servers"), [(3, 1), (7, 1), (13, 1), (14, 2), (20, 2), (21, 3), (40, 3)])
def test_servers_are_shown_whole_and_those_that_do_not_fit_are_counted(height: int, servers: int) -> None:
    view = TopView([known(), ServerRecord("gpu2:8188"), ServerRecord("gpu3:8188")])
    view.update()
    *lines, below = view.screen(80, height)
    shown = [line.plain.split(" ")[0] for line in lines if ":8188" in line.plain]
    assert shown == ["gpu1:8188", "gpu2:8188", "gpu3:8188"][:servers]
    assert len(lines) + 1 <= max(height, 7)
    assert lines[-1].plain.startswith("Success rate")
    assert (f"{3 - servers} of 3 servers do not fit" in below.plain) is (servers < 3)


def test_memory_is_drawn_as_a_part_of_what_there_is() -> None:
    view = TopView([known()])
    view.update()
    assert "12.0/48.0 GiB ▃ " in "\n".join(line.plain for line in view.lines(80))


def test_what_is_unknown_is_a_dash_and_null() -> None:
    view = TopView([ServerRecord("gpu2:8188")], ASCII_BLOCKS)
    view.update()
    (data,) = view.data()
    assert {data[figure.key] for figure in FIGURES} == {None}
    screen = "\n".join(line.plain for line in view.lines(80))
    assert "gpu2:8188 no answer yet" in screen
    assert screen.count("–") == len(FIGURES)


def test_a_server_that_is_down_says_why_and_has_no_dashes() -> None:
    view = TopView([ServerRecord("gpu2:8188", error="http://gpu2:8188: connection refused")])
    view.update()
    assert [line.plain for line in view.lines(80)] == ["gpu2:8188 down, connection refused"]


def test_once_as_json(tmp_path: Path) -> None:
    with SimulatorProcess(time_scale=50) as simulator:
        result = load(simulator.url, tmp_path, iterations=5)
        done = subprocess.run(
            [*COMFYLOAD, "top", "--once", "--json", "--interval", "0.2s", "--comfyui-url", simulator.url],
            capture_output=True,
            text=True,
            check=True,
        )
    (line,) = done.stdout.splitlines()
    (data,) = json.loads(line)
    assert (data["server"], data["up"], data["simulated"]) == (label(simulator.url), True, True)
    assert data["success_rate_percent"] == 100
    assert data["generation_time_mean_seconds"] == pytest.approx(float(result.generation_time.mean), rel=0.01)
    assert data["generation_time_p95_seconds"] == pytest.approx(float(result.generation_time.p95), rel=0.01)


@pytest.mark.parametrize(("columns", "rows"), [(80, 7), (120, 5)])
def test_the_screen_of_a_terminal(tmp_path: Path, columns: int, rows: int) -> None:
    program = shutil.which("tmux") or pytest.skip("needs tmux")
    socket = str(tmp_path / "tmux")

    def tmux(*arguments: str) -> str:
        # readline, which pytest loads, sets these without Python's knowledge, and child processes inherit them.
        environment = {name: value for name, value in os.environ.items() if name not in ("LINES", "COLUMNS")}
        command = [program, "-S", socket, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    with SimulatorProcess(time_scale=3) as simulator:
        load(simulator.url, tmp_path, users=1, iterations=2)
        command = [*COMFYLOAD, "top", "--interval", "0.2s", "--comfyui-url", simulator.url]
        tmux("-f", "/dev/null", "new-session", "-d", "-s", "t", "-x", str(columns), "-y", "20", *command)
        try:

            def whole() -> None:
                screen = tmux("capture-pane", "-p", "-t", "t").rstrip()
                assert len(screen.splitlines()) == rows, screen
                assert "GPU temperature" in screen, screen
                assert "Success rate           100.0 %" in screen, screen

            eventually(whole, 60)
            tmux("send-keys", "-t", "t", "C-c")
            eventually(
                lambda: subprocess.run([program, "-S", socket, "ls"], capture_output=True, check=False).returncode != 0
            )
        finally:
            subprocess.run([program, "-S", socket, "kill-server"], capture_output=True, check=False)
