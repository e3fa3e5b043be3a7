"""Readiness check: a server is ready once it has executed a prompt, since one with a dead worker still answers 200."""

from __future__ import annotations

import json
import secrets
import time
import uuid
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

from pytest_comfyload.errors import NotComfyUI, ServerError, ServerTimeout
from pytest_comfyload.metrics.units import format_value
from pytest_comfyload.text import harmless

__all__ = ["wait_until_ready"]

POLL_INTERVAL = 0.1
REQUEST_TIMEOUT = 5.0


def wait_until_ready(url: str, *, timeout: float, check_alive: Callable[[], None] = lambda: None) -> None:
    """Wait until the server at `url` (http://host:port) has answered and then executed a tiny prompt.

    `timeout` is in seconds and covers both. `check_alive` is called between attempts and may raise to end the wait.

    Raises:
        ServerTimeout: The server did not answer, or did not execute the prompt, in time.
        NotComfyUI: A response did not come from ComfyUI.
        ServerError: The prompt failed.
    """
    deadline = time.monotonic() + timeout

    def wait_for(attempt: Callable[[], bool], what: str) -> None:
        while not attempt():
            check_alive()
            if time.monotonic() > deadline:
                raise ServerTimeout(f"ComfyUI at {url} {what} within {format_value(timeout, 's')}")
            time.sleep(POLL_INTERVAL)

    prompt_id = str(uuid.uuid4())
    wait_for(lambda: _call(url, "GET", "/system_stats") is not None, "did not answer")
    wait_for(lambda: _submitted(url, prompt_id), "answered, but did not accept a prompt")
    wait_for(lambda: _executed(url, prompt_id), "accepted a prompt, but did not execute it")


def _submitted(url: str, prompt_id: str) -> bool:
    body = {"prompt_id": prompt_id, "prompt": _fresh_prompt()}
    return _call(url, "POST", "/prompt", body) is not None


def _fresh_prompt() -> dict[str, Any]:
    """Return a prompt of two core nodes without models. Its colour is random: a cached prompt would prove nothing."""
    size = {"width": 8, "height": 8, "batch_size": 1}
    return {
        "image": {"class_type": "EmptyImage", "inputs": {**size, "color": secrets.randbelow(1 << 24)}},
        "preview": {"class_type": "PreviewImage", "inputs": {"images": ["image", 0]}},
    }


def _executed(url: str, prompt_id: str) -> bool:
    history = _call(url, "GET", f"/history/{prompt_id}")
    if not history:
        return False
    status = history[prompt_id]["status"]
    if status["status_str"] != "success":
        raise ServerError(f"ComfyUI at {url} failed the readiness prompt: {json.dumps(status['messages'][-1])}")
    return True


def _call(url: str, method: str, path: str, body: object = None) -> Any:
    """Return the JSON response; None while nothing answers. Raises: NotComfyUI.

    Not by urllib, which would send requests to our own child process through a proxy.
    """
    address = urlsplit(url)
    connection = HTTPConnection(address.hostname or "", address.port, timeout=REQUEST_TIMEOUT)
    try:
        connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if response.status != 200 or answer is None:
        said = harmless(content.decode(errors="replace"), 500)
        raise NotComfyUI(f"{method} {url}{path} answered {response.status}, not as ComfyUI would: {said}")
    return answer
