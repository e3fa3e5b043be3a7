"""Readiness, checked against a small server that answers as each test specifies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

from pytest_comfyload.errors import NotComfyUI, ServerError, ServerTimeout
from pytest_comfyload.launch import wait_until_ready
from pytest_comfyload.launch.process import free_port

SUCCESS = {"status_str": "success", "completed": True, "messages": []}
FAILURE = {"status_str": "error", "completed": False, "messages": [["execution_error", {"node_id": "image"}]]}


@dataclass
class Script:
    """The server's answers, and the prompts that it was sent."""

    stats: str = "{}"
    prompt_status: int = 200
    history: list[dict[str, Any] | None] = field(default_factory=lambda: [SUCCESS])  # one per request; the last repeats
    prompts: list[dict[str, Any]] = field(default_factory=list)

    def get(self, path: str) -> str:
        if path == "/system_stats":
            return self.stats
        status = self.history.pop(0) if len(self.history) > 1 else self.history[0]
        prompt_id = path.removeprefix("/history/")
        return json.dumps({prompt_id: {"status": status}} if status else {})


@contextmanager
def served(script: Script) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200, script.get(self.path))

        def do_POST(self) -> None:
            script.prompts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.answer(script.prompt_status, '{"error": "told to refuse"}')

        def answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing to the terminal."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_is_ready_once_the_history_says_success() -> None:
    script = Script(history=[None, None, SUCCESS])
    checks: list[int] = []
    with served(script) as url:
        wait_until_ready(url, timeout=30, check_alive=lambda: checks.append(1))
    assert len(script.prompts) == 1
    assert len(checks) == 2  # one after each history response without the prompt


def test_the_prompt_is_never_the_same_twice() -> None:
    script = Script()
    with served(script) as url:
        for _ in range(3):
            wait_until_ready(url, timeout=30)
    colors = {sent["prompt"]["image"]["inputs"]["color"] for sent in script.prompts}
    assert len(colors) > 1
    assert len({sent["prompt_id"] for sent in script.prompts}) == 3


def test_a_dead_worker_is_not_ready() -> None:
    with (
        served(Script(history=[None])) as url,
        pytest.raises(ServerTimeout, match=r"accepted a prompt, but did not execute it within 0\.3 s"),
    ):
        wait_until_ready(url, timeout=0.3)


def test_nothing_listens() -> None:
    with pytest.raises(ServerTimeout, match=r"did not answer within 0\.2 s"):
        wait_until_ready(f"http://127.0.0.1:{free_port()}", timeout=0.2)


def test_a_failed_prompt_ends_the_wait() -> None:
    with (
        served(Script(history=[FAILURE])) as url,
        pytest.raises(ServerError, match=r"failed the readiness prompt.*image"),
    ):
        wait_until_ready(url, timeout=30)


def test_a_refused_prompt_ends_the_wait() -> None:
    with served(Script(prompt_status=400)) as url, pytest.raises(NotComfyUI, match=r"answered 400.*told to refuse"):
        wait_until_ready(url, timeout=30)


def test_something_else_answers() -> None:
    with (
        served(Script(stats="<html>hello")) as url,
        pytest.raises(NotComfyUI, match=r"GET .*/system_stats .*<html>hello"),
    ):
        wait_until_ready(url, timeout=30)


def test_check_alive_ends_the_wait() -> None:
    def dead() -> None:
        raise ServerError("it is gone")

    with pytest.raises(ServerError, match="it is gone"):
        wait_until_ready(f"http://127.0.0.1:{free_port()}", timeout=30, check_alive=dead)
