"""The servers of a run: of one kind, known before the load, and held against every other run."""

from __future__ import annotations

import asyncio
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.errors import ConnectionRefused, UsageError
from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.run.target import exclusively, inspect_target, object_info_of
from pytest_comfyload.workflow.workflow import Workflow


class _RealServer(http.server.BaseHTTPRequestHandler):
    """Answers /system_stats as a ComfyUI without a simulator does."""

    def do_GET(self) -> None:
        body = json.dumps({"system": {"comfyui_version": "0.3.75"}, "devices": []}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def real() -> Iterator[ServerAddress]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _RealServer) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield ServerAddress(f"http://127.0.0.1:{httpd.server_address[1]}")
        httpd.shutdown()
        thread.join()


def test_a_simulator_tells_its_scale_and_a_real_server_has_none(server: ServerAddress, real: ServerAddress) -> None:
    simulated = asyncio.run(inspect_target([server]))
    assert simulated.time_scale == 100
    assert simulated.urls == (server.url,)
    assert simulated.stats[0].version
    assert asyncio.run(inspect_target([real, real])).time_scale is None


def test_clocks_are_not_mixed(server: ServerAddress, real: ServerAddress) -> None:
    with pytest.raises(UsageError, match="one run cannot mix clocks") as refused:
        asyncio.run(inspect_target([server, real]))
    assert f"{server.url} is simulated at ×100; {real.url} is real; give servers of one kind" in str(refused.value)
    with SimulatorProcess(time_scale=50) as other, pytest.raises(UsageError, match="simulated at ×50"):
        asyncio.run(inspect_target([server, ServerAddress(other.url)]))


def test_one_server_that_is_not_there_is_named(server: ServerAddress) -> None:
    with pytest.raises(ConnectionRefused, match=r"http://127\.0\.0\.1:1: connection refused"):
        asyncio.run(inspect_target([server, ServerAddress("http://127.0.0.1:1")]))


def test_object_info_has_the_classes_of_the_workflow_or_where_one_lacks_all(server: ServerAddress) -> None:
    workflow = Workflow.load("txt2img")
    classes = {node["class_type"] for node in workflow.graph.values()}
    assert set(asyncio.run(object_info_of(server, workflow))) == classes
    strange = Workflow.load({"1": {"class_type": "Nowhere", "inputs": {}}})
    everything = asyncio.run(object_info_of(server, strange))
    assert "Nowhere" not in everything
    assert classes < set(everything)


# --- held against every other run ---

HOLDER = """
import asyncio, sys
from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.run.target import exclusively

async def main():
    print("waiting", flush=True)
    async with exclusively([ServerAddress(url) for url in sys.argv[1:]]):
        print("holding", flush=True)
        sys.stdin.readline()

asyncio.run(main())
"""


class _Holder:
    """A process that holds servers until it is told to let go."""

    def __init__(self, *urls: str) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-c", HOLDER, *urls], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def says(self) -> str:
        assert self._child.stdout
        return self._child.stdout.readline().strip()

    def let_go(self) -> None:
        self._child.communicate("\n", timeout=20)

    def kill(self) -> None:
        self._child.kill()
        self._child.communicate()

    def __enter__(self) -> _Holder:
        return self

    def __exit__(self, *error: object) -> None:
        if self._child.returncode is None:
            self.kill()


@pytest.fixture
def temporary_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


@pytest.mark.usefixtures("temporary_locks")
def test_a_server_is_held_by_one_process_at_a_time() -> None:
    with _Holder("http://a:1", "http://b:1") as first:
        assert (first.says(), first.says()) == ("waiting", "holding")
        assert not _free("http://b:1")
        assert _free("http://c:1")
        with _Holder("http://b:1", "http://c:1") as second:
            assert second.says() == "waiting"
            first.let_go()
            assert second.says() == "holding"
    assert _free("http://b:1")


@pytest.mark.usefixtures("temporary_locks")
def test_a_holder_that_dies_lets_go() -> None:
    with _Holder("http://a:1") as holder:
        assert (holder.says(), holder.says()) == ("waiting", "holding")
        holder.kill()
    assert _free("http://a:1")


def _free(url: str) -> bool:
    async def within(seconds: float) -> None:
        async with asyncio.timeout(seconds), exclusively([ServerAddress(url)]):
            pass

    try:
        asyncio.run(within(0.3))
    except TimeoutError:
        return False
    return True
