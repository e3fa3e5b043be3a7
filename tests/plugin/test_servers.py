"""A server that cannot take the load gives one clear message at set-up, and the load is not retried."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.plugin.suite import Suite


class _NoComfyUI(http.server.BaseHTTPRequestHandler):
    """Serves the same page for every request, and counts the requests for /system_stats."""

    def do_GET(self) -> None:
        if self.path == "/system_stats":
            self.server.asked += 1  # type: ignore[attr-defined]
        body = b"<h1>It works!</h1>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def web_server() -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _NoComfyUI) as httpd:
        httpd.asked = 0  # type: ignore[attr-defined]
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield httpd
        httpd.shutdown()
        thread.join()


@pytest.fixture
def nothing() -> Iterator[str]:
    """Yield a URL where connections are refused: the port is bound, but nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


LOAD_TESTS = """
@load_scenario("txt2img", inputs={inputs}, fetch=False, max_send_lag="30s")
class TestTogether:
    def test_one(self, load):
        pass
    def test_two(self, load):
        pass
    def test_three(self):
        pass

def test_unrelated():
    pass
"""


def _expect_one_message_for_each(result: pytest.RunResult, message: str) -> None:
    result.assert_outcomes(passed=1, errors=3)
    output = result.stdout.str() + result.stderr.str()
    said = [line for line in result.outlines if line.startswith(message)]
    assert len(said) == 3, output
    assert "Traceback" not in output
    assert "pytest_comfyload" not in output
    assert "site-packages" not in output
    assert "another exception" not in output


def test_a_refused_connection(suite: Suite, nothing: str, workers: list[str]) -> None:
    suite.write("test_it.py", LOAD_TESTS.format(inputs={}))
    result = suite.run(*workers, "--comfyui-url", nothing)
    _expect_one_message_for_each(result, f"{nothing}: connection refused; is ComfyUI running there?")


def test_a_server_that_is_no_comfyui(
    suite: Suite, web_server: http.server.ThreadingHTTPServer, workers: list[str]
) -> None:
    url = f"http://127.0.0.1:{web_server.server_address[1]}"
    suite.write("test_it.py", LOAD_TESTS.format(inputs={}))
    result = suite.run(*workers, "--comfyui-url", url)
    _expect_one_message_for_each(result, f"{url} answered GET /system_stats with text/html where ComfyUI sends JSON")
    # One run for the class, regardless of its outcome and of how many processes run its tests.
    assert web_server.asked == 1  # type: ignore[attr-defined]


def test_a_checkpoint_that_the_server_lacks(suite: Suite, server: str, workers: list[str]) -> None:
    inputs = {"CheckpointLoaderSimple.ckpt_name": "v1-5-pruned-emonly.safetensors"}
    suite.write("test_it.py", LOAD_TESTS.format(inputs=inputs))
    result = suite.run(*workers, "--comfyui-url", server)
    result.assert_outcomes(passed=1, errors=3)
    output = result.stdout.str()
    assert "'v1-5-pruned-emonly.safetensors'" in output
    assert "v1-5-pruned-emaonly.safetensors, " in output
    for word in ("Traceback", "pytest_comfyload", "site-packages", "another exception"):
        assert word not in output
