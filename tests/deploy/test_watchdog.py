"""The watchdog of simulators that hang, run out of memory, or stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest

from pytest_comfyload.deploy import watchdog
from pytest_comfyload.deploy.watchdog import Hung, Watch
from pytest_comfyload.launch.process import free_port
from pytest_comfyload.launch.simulator import SimulatorProcess
from tests.monitor.prometheus_server import eventually

PROBE: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}
OOM: dict[str, Any] = {**PROBE, "2": {"class_type": "ProbeOOM", "inputs": {"image": ["1", 0]}}}
OOM["3"] = {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}


def post(url: str, graph: dict[str, Any] = PROBE) -> None:
    body = json.dumps({"prompt": graph, "prompt_id": str(uuid.uuid4())}).encode()
    request = urllib.request.Request(f"{url}/prompt", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=10).close()


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def has_ended(url: str, count: int) -> bool:
    return len(get(f"{url}/history")) == count


def looks(watch: Watch) -> None:
    """Poll until the watch finds the server hung. Raises: Hung."""
    eventually(lambda: watch.look() and False, 20)


def test_a_dead_worker_is_hung_whatever_is_sent_to_it() -> None:
    with SimulatorProcess(faults={"dead-worker": 1}, time_scale=100) as server:
        watch = Watch(server.url, hung=0.5, ooms=3)
        post(server.url)
        eventually(lambda: watch.look() and get(f"{server.url}/history") != {})
        post(server.url)
        watch.hear(b"got prompt")
        with pytest.raises(Hung, match=r"1 prompts wait or run, and nothing has moved for 0.5 s"):
            looks(watch)


def test_a_long_prompt_that_writes_progress_is_not_hung() -> None:
    with SimulatorProcess(faults={"dead-worker": 1}, time_scale=100) as server:
        watch = Watch(server.url, hung=1e6, ooms=3)
        post(server.url)
        eventually(lambda: get(f"{server.url}/history") != {})
        post(server.url)
        watch.look()
        before = watch._progress
        watch.hear(b"got prompt")
        watch.look()
        assert watch._progress == before
        watch.hear(b" 50%|#####     | 5/10 [00:30<00:30,  6.00s/it]")
        assert watch._progress > before


def test_prompts_that_run_out_of_memory_in_a_row_are_a_loop() -> None:
    with SimulatorProcess(probe_nodes=True, time_scale=100) as server:
        watch = Watch(server.url, hung=1e6, ooms=2)
        for graph, ended in ((OOM, 1), (PROBE, 2), (OOM, 3)):
            post(server.url, graph)
            eventually(partial(has_ended, server.url, ended))
            assert watch.look()
        post(server.url, {**OOM, "9": PROBE["1"]})
        eventually(lambda: len(get(f"{server.url}/history")) == 4)
        with pytest.raises(Hung, match="the last 2 prompts ran out of memory"):
            watch.look()


def test_an_idle_server_is_tried_and_its_history_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "IDLE", 0.0)
    with SimulatorProcess(time_scale=100) as server:
        watch = Watch(server.url, hung=1e6, ooms=3)
        assert watch.look()
        assert watch._probe is not None
        eventually(lambda: watch.look() and watch._probe is None)
        assert get(f"{server.url}/history") == {}


def test_a_worker_that_died_while_it_was_idle_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with SimulatorProcess(faults={"dead-worker": 1}, time_scale=100) as server:
        post(server.url)
        watch = Watch(server.url, hung=1e6, ooms=3)
        eventually(lambda: watch.look() and get(f"{server.url}/history") != {})
        monkeypatch.setattr(watchdog, "IDLE", 0.0)
        monkeypatch.setattr(watchdog, "PROBE", 0.3)
        with pytest.raises(Hung, match=r"idle, but a tiny prompt was not executed within 0.3 s"):
            looks(watch)


def test_silence_counts_from_the_first_answer_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "SILENT", 0.0)
    assert not Watch(f"http://127.0.0.1:{free_port()}", hung=1, ooms=1).look()
    with SimulatorProcess(time_scale=100) as server:
        watch = Watch(server.url, hung=1e6, ooms=3)
        assert watch.look()
    with pytest.raises(Hung, match="no answer for 0 s"):
        watch.look()


@pytest.mark.parametrize(
    "history", ['["a"]', '{"a": 1}', '{"a": {"status": []}}', '{"a": {"status": {"messages": [1]}}}', "x"]
)
def test_an_answer_that_is_not_comfyuis_is_no_answer(history: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"/prompt": {"exec_info": {"queue_remaining": 0}}}
    monkeypatch.setattr(Watch, "_call", lambda self, path, body=None: answers.get(path) or json.loads(history))
    assert Watch("http://x", hung=1, ooms=1).look() is (history == "{}")


# --- the whole program -----------------------------------------------------------------------------------------------

# With short times, as a container's command.
PROGRAM = f"""
import sys
sys.path.insert(0, {str(Path(watchdog.__file__).parent)!r})
import watchdog
watchdog.PERIOD = 0.1
sys.exit(watchdog.main())
"""


def start(folder: Path, *options: str, faults: str = "") -> tuple[subprocess.Popen[bytes], str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = [sys.executable, "-m", "pytest_comfyload.simulator", f"--port={port}", "--time-scale=100", *faults.split()]
    command = [sys.executable, "-c", PROGRAM, f"--url={url}", *options, "--", *server]
    child = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(folder)}, stderr=subprocess.PIPE)
    try:
        eventually(lambda: watchdog_says(folder, "--healthy") == 0)
    except AssertionError:
        # SIGTERM also stops the server; before its first answer, there are no prompts to wait for.
        child.terminate()
        raise
    return child, url


def end(child: subprocess.Popen[bytes], folder: Path) -> None:
    """Stop the watchdog, and the server that it leaves behind, after a test that failed."""
    if child.poll() is None:
        child.kill()
        child.wait()
        watchdog_says(folder, "--crash")


def watchdog_says(folder: Path, option: str) -> int:
    command = [sys.executable, watchdog.__file__, option]
    return subprocess.run(command, env={**os.environ, "TMPDIR": str(folder)}, check=False, timeout=30).returncode


def ended(child: subprocess.Popen[bytes], url: str) -> tuple[int, str]:
    """Return the exit status and the output, after checking that no server is left."""
    _, said = child.communicate(timeout=30)
    with pytest.raises(URLError):
        get(f"{url}/prompt")
    return child.returncode, said.decode()


def test_a_hung_server_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    child, url = start(tmp_path, "--hung=1.5", faults="--fault dead-worker=1")
    try:
        post(url)
        eventually(lambda: get(f"{url}/history") != {})
        post(url)
        status, said = ended(child, url)
    finally:
        end(child, tmp_path)
    assert status == 1
    assert "watchdog: 1 prompts wait or run, and nothing has moved for 1.5 s; ComfyUI is ended" in said
    assert watchdog_says(tmp_path, "--healthy") == 1


def test_it_ends_by_sigterm_after_the_prompts_in_the_queue(tmp_path: Path) -> None:
    child, url = start(tmp_path, "--drain=60", faults="--probe-nodes")
    try:
        sleep = {"class_type": "ProbeSleep", "inputs": {"seconds": 200.0, "seed": 0, "width": 64}}
        began = time.monotonic()
        post(url, {**PROBE, "1": sleep})
        child.send_signal(signal.SIGTERM)
        assert ended(child, url)[0] == 0
        assert time.monotonic() - began >= 2, "the prompt takes two seconds"
    finally:
        end(child, tmp_path)


def test_a_crash_ends_it_with_the_status_of_the_crash(tmp_path: Path) -> None:
    child, url = start(tmp_path)
    try:
        assert watchdog_says(tmp_path, "--crash") == 0
        assert ended(child, url)[0] == 256 - signal.SIGKILL
        assert watchdog_says(tmp_path, "--crash") == 1
    finally:
        end(child, tmp_path)
