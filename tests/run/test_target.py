"""The servers of a run are all of one kind, which is known before the load starts."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.errors import ConnectionRefused, UsageError
from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.run.target import inspect_target, object_info_of
from pytest_comfyload.workflow.workflow import Workflow


class _RealServer(http.server.BaseHTTPRequestHandler):
    """Answers `/system_stats` as a real ComfyUI does."""

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
    with pytest.raises(UsageError, match="one run cannot mix real and simulated servers") as refused:
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
