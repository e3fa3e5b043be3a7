"""`comfyload record`: a trace has the arrivals that the senders know of, and a gap wherever some may be missing."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import signal
import statistics
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.errors import UsageError
from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.metrics.arrival_trace import ArrivalTrace, read_trace
from pytest_comfyload.monitor.recorder import record, workflow_hash
from pytest_comfyload.protocol.bodies import parse_queued
from tests.contract.loads import probe, run
from tests.monitor.prometheus_server import eventually
from tests.monitor.test_watch import OddServer, reached
from tests.real_comfyui.target import Target

COMFYLOAD = (sys.executable, "-c", "from pytest_comfyload.cli import main; main()")


@pytest.fixture(params=["simulator", pytest.param("real", marks=pytest.mark.real)])
def live(request: pytest.FixtureRequest) -> Iterator[Target]:
    """Yield a server in real time."""
    if request.param == "real":
        yield Target("real", request.getfixturevalue("real_comfyui"), "")
        return
    with SimulatorProcess(time_scale=1.0, probe_nodes=True) as server:
        yield Target("simulator", server.url, "")


@contextlib.contextmanager
def recording(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command in a separate process, ready once it has begun to write week.jsonl."""
    command = [*COMFYLOAD, "record", "-o", "week.jsonl", "--interval", "0.2s", *arguments]
    child = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    trace = folder / "week.jsonl"
    try:
        eventually(lambda: (trace.is_file() and trace.stat().st_size > 0) or child.poll() is not None)
        yield child
    finally:
        child.kill()
        child.communicate()


def read(folder: Path) -> ArrivalTrace:
    return read_trace(folder / "week.jsonl", "week.jsonl")


def post(url: str, path: str, body: Any) -> None:
    urllib.request.urlopen(urllib.request.Request(url + path, json.dumps(body).encode()), timeout=10).close()


def test_arrivals_are_those_that_the_load_has_sent(live: Target, tmp_path: Path) -> None:
    with recording(tmp_path, "--comfyui-url", live.url) as child:
        rate: dict[str, Any] = {"rate": "120/min", "arrival": "poisson", "duration": "5s", "seed": 4}
        load = run(live, tmp_path, probe(0.1), warmup=0, **rate)
        # These are still waiting when the recording ends.
        for number in range(3):
            graph = probe(60.0 + number)
            post(live.url, "/prompt", {"prompt": graph, "prompt_id": str(uuid.uuid4())})
        try:
            child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=30)
        finally:
            post(live.url, "/queue", {"clear": True})
            post(live.url, "/interrupt", {})
    assert child.returncode == 0, err
    trace = read(tmp_path).select("all")
    sent = sorted(load.facts.epoch + each.timeline.sent for each in load.outcomes if each.timeline)
    assert len(trace.times) == len(sent) + 3
    assert out == f"week.jsonl: {len(trace.times)} arrivals\n"
    late = [trace.start.timestamp() + time - at for time, at in zip(trace.times, sent, strict=False)]
    # Clocks and timestamps have milliseconds; a busy machine takes a while between sending and acceptance.
    assert min(late) > -0.05
    assert statistics.median(late) < 0.25
    assert set(trace.workflows) == {workflow_hash(probe())}
    # The trace has only node classes and links.
    assert "prompt" not in (tmp_path / "week.jsonl").read_text()


def test_a_recording_that_is_killed_is_a_trace(tmp_path: Path) -> None:
    with SimulatorProcess(time_scale=1.0, probe_nodes=True) as server:
        target = Target("simulator", server.url, "")
        with recording(tmp_path, "--comfyui-url", server.url) as child:
            load = run(target, tmp_path, probe(0.05), users=1, iterations=5, warmup=0)
            end = load.facts.epoch + max(each.timeline.sent for each in load.outcomes if each.timeline)
            # A heartbeat is written every ten seconds.
            eventually(lambda: _until(tmp_path) > end - read_start(tmp_path), 60)
            child.kill()
            child.wait()
    assert len(read(tmp_path).select("all").times) == 5


def _until(folder: Path) -> float:
    lines = map(json.loads, (folder / "week.jsonl").read_text().splitlines())
    return max((line["until"] for line in lines if "until" in line), default=0.0)


def read_start(folder: Path) -> float:
    first, _, _ = (folder / "week.jsonl").read_text().partition("\n")
    return ArrivalTrace.parse(f'{first}\n{{"until": 1}}'.encode(), "w").start.timestamp()


class Recording:
    """`record` on odd servers, in scenes that wait with `reached`."""

    def __init__(self) -> None:
        self.output, self.said = io.StringIO(), list[str]()

    def run(self, scene: Callable[[OddServer, Recording], Any]) -> list[dict[str, Any]]:
        """Play the scene, and return the recorded lines."""

        async def go() -> None:
            server, stopped = OddServer(), asyncio.Event()
            async with server.running() as url:
                address = ServerAddress(url, deadline=0.5)
                task = asyncio.create_task(record([address], self.output, 60, stopped, 0.02, self.said.append))
                await reached(lambda: bool(self.output.getvalue()) or task.done())
                await scene(server, self)
                stopped.set()
                await task

        asyncio.run(go())
        return [json.loads(line) for line in self.output.getvalue().splitlines()]


def test_an_older_server_has_the_start_of_execution_stand_in() -> None:
    async def scene(server: OddServer, recording: Recording) -> None:
        server.end(2, now=True)
        await reached(lambda: recording.output.getvalue().count('"t"') == 2)

    recording = Recording()
    _, *lines = recording.run(scene)
    assert [line["stand_in"] for line in lines if "t" in line] == ["execution_start"] * 2
    assert len([line for line in recording.said if "does not report when prompts arrive" in line]) == 1


def test_what_a_restart_may_have_lost_is_a_gap() -> None:
    async def scene(server: OddServer, recording: Recording) -> None:
        server.end(2, now=True)
        await reached(lambda: recording.output.getvalue().count('"t"') == 2)
        server.history.clear()
        server.end(1, now=True, first=9)
        await reached(lambda: '"gap"' in recording.output.getvalue())

    recording = Recording()
    _, *lines = recording.run(scene)
    arrivals, (gap,) = [line["t"] for line in lines if "t" in line], [line["gap"] for line in lines if "gap" in line]
    assert len(arrivals) == 3
    assert arrivals[1] - 0.001 <= gap[0] <= gap[1] <= lines[-1]["until"]
    assert any("may be missing: the server was restarted" in line for line in recording.said)


def test_a_server_that_is_gone_at_the_end_leaves_a_gap() -> None:
    async def scene(server: OddServer, recording: Recording) -> None:
        server.end(1, now=True)
        await reached(lambda: '"t"' in recording.output.getvalue())
        server.hangs = True
        await reached(lambda: bool([line for line in recording.said if "was not answered" in line]))

    recording = Recording()
    lines = recording.run(scene)
    assert "are not complete" in recording.said[-1]
    assert lines[-2]["gap"][1] == lines[-1]["until"]
    trace = ArrivalTrace.parse(recording.output.getvalue().encode(), "w")
    with pytest.raises(UsageError, match="has a gap"):
        trace.select("all")


def test_a_clock_that_is_wrong_is_taken_off() -> None:
    async def scene(server: OddServer, recording: Recording) -> None:
        server.end(1, now=True, ahead=3600)
        await reached(lambda: '"t"' in recording.output.getvalue())

    recording = Recording()
    _, line, *_ = recording.run(scene)
    assert 0 <= line["t"] < 60
    assert any("its clock differs by 3" in line for line in recording.said)


def test_a_simulator_of_another_time_is_refused(simulator: str) -> None:
    with pytest.raises(UsageError, match=r"times real time, and a trace is in real time: start it with --time-scale 1"):
        asyncio.run(record([ServerAddress(simulator)], io.StringIO(), 60, asyncio.Event()))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--comfyui-url", "http://127.0.0.1:9"], "is ComfyUI running there"),
        ([], "no server: name one with --comfyui-url or COMFYUI_URL"),
        (["--comfyui-url", "http://127.0.0.1:9", "--for", "-1s"], "--for"),
        (["--comfyui-url", "http://127.0.0.1:9", "--for", "400d"], "--for 400d: give 1s to 366d"),
        (["--comfyui-url", "http://127.0.0.1:9", "--interval", "2m"], "--interval 2m: give 0.1s to 60s"),
        (["--comfyui-url", "http://127.0.0.1:9", "-o", "/nowhere/week.jsonl"], "No such file or directory"),
    ],
)
def test_what_cannot_be_recorded_is_one_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    command = [*COMFYLOAD, "record", "-o", "week.jsonl", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "week.jsonl").exists()


def test_no_recording_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "week.jsonl").write_text("a week")
    command = [*COMFYLOAD, "record", "-o", "week.jsonl", "--comfyui-url", "http://127.0.0.1:9"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "week.jsonl exists already; give the name of a new file" in done.stderr
    assert (tmp_path / "week.jsonl").read_text() == "a week"


def test_a_hash_is_of_classes_and_links_alone() -> None:
    graph = probe()
    other = {**graph, "1": {"class_type": "ProbeSleep", "inputs": {"seconds": 9, "seed": 5, "text": "secret"}}}
    relinked = {**graph, "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 1]}}}
    assert workflow_hash(graph) == workflow_hash(other)
    assert workflow_hash(graph) != workflow_hash(relinked)
    assert workflow_hash(graph) != workflow_hash({**graph, "3": graph["2"]})


def test_the_queue_may_hold_anything() -> None:
    items = [[1, "a", {"1": 3}, {"create_time": 5000}, []], [2], None, {"a": 1}, [3, 4, {}]]
    (entry,) = parse_queued({"queue_running": items, "queue_pending": "none"})
    assert (entry.prompt_id, entry.create_time, entry.graph) == ("a", 5.0, {})
