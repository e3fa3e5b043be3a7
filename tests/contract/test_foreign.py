"""Foreign prompts in the queue during a load are detected, and every outcome that they affected says so."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.units import counted
from pytest_comfyload.result.load_result import LoadResult
from tests.conftest import TIME_SCALE
from tests.contract.loads import fetched, probe, run
from tests.real_comfyui.target import Target


@pytest.fixture
def scale(target: Target) -> float:
    """Seconds of the target's clock per real second."""
    return TIME_SCALE if target.name == "simulator" else 1.0


def _post(target: Target, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{target.url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read() or b"null")


def _send(target: Target, seconds: float, run_tag: str | None = None) -> str:
    """Submit a prompt of somebody else's or, with `run_tag`, of another run of ours."""
    graph = probe(seconds)
    graph["1"]["inputs"]["seed"] = uuid.uuid4().int % 2**31
    extra_data = {} if run_tag is None else {"comfyload": {"run": run_tag}}
    return str(_post(target, "/prompt", {"prompt": graph, "extra_data": extra_data})["prompt_id"])


def _queued(target: Target) -> set[str]:
    queue = fetched(f"{target.url}/queue")
    return {item[1] for item in (*queue["queue_running"], *queue["queue_pending"])}


@pytest.fixture(autouse=True)
def idle(target: Target) -> Iterator[None]:
    """Remove what a test leaves on the target before the next one."""
    yield
    _post_clear(target)
    deadline = time.monotonic() + 20
    while _queued(target):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _post_clear(target: Target) -> None:
    for path, body in (("/queue", {"clear": True}), ("/interrupt", {})):
        request = urllib.request.Request(f"{target.url}{path}", json.dumps(body).encode(), method="POST")
        urllib.request.urlopen(request, timeout=30).close()


class _Stranger(threading.Thread):
    """Sends one prompt after five prompts of a load are done; `since` and `until` are when it was on the server."""

    def __init__(self, target: Target, store: Path, seconds: float) -> None:
        super().__init__()
        self._target, self._store, self._seconds = target, store, seconds
        self.since = self.until = 0.0

    def run(self) -> None:
        while self._spooled() < 5:
            time.sleep(0.02)
        self.since = time.time()
        prompt_id = _send(self._target, self._seconds)
        while prompt_id in _queued(self._target):
            time.sleep(0.02)
        self.until = time.time()

    def _spooled(self) -> int:
        return sum(path.read_bytes().count(b"\n") - 1 for path in self._store.glob(".comfyload/spool/*.jsonl"))


def _with_a_stranger(
    target: Target, store: Path, scale: float, seconds: float = 1.0, **arguments: Any
) -> tuple[LoadResult, _Stranger]:
    stranger = _Stranger(target, store, seconds * scale)
    stranger.start()
    load = run(target, store, probe(0.2 * scale), iterations=20, warmup=0, **arguments)
    stranger.join()
    return load, stranger


@pytest.mark.parametrize("seconds", [0.5, 2.0])
def test_mark(target: Target, tmp_path: Path, scale: float, seconds: float) -> None:
    load, stranger = _with_a_stranger(target, tmp_path, scale, seconds)
    assert load.success_rate == 100
    assert load.state == "contaminated"
    since, until = ((time - load.facts.epoch) * scale for time in (stranger.since, stranger.until))
    met = [each for each in load.outcomes if each.timeline and each.timeline.sent < until and (each.end or 0) > since]
    assert met
    assert all(outcome.contended for outcome in met)
    assert not load.outcomes[0].contended
    assert not load.outcomes[-1].contended
    assert f"{counted(int(load.contended), 'prompt')} contended: up to 1 foreign prompt queued" in load.facts.notes


def test_fail(target: Target, tmp_path: Path, scale: float) -> None:
    load, _ = _with_a_stranger(target, tmp_path, scale, on_foreign="fail")
    assert load.state == "invalid"
    assert (
        f"{counted(int(load.contended), 'prompt')} shared the server with foreign prompts (on_foreign='fail')"
        == str(load.invalid_because)
    )


def test_wait(target: Target, tmp_path: Path, scale: float) -> None:
    theirs = [_send(target, 1.0 * scale), _send(target, 0.5 * scale)]
    load = run(target, tmp_path, probe(0.1 * scale), warmup=0, on_foreign="wait")
    assert load.state == "valid"
    assert load.success_rate == 100
    ends = [fetched(f"{target.url}/history/{each}")[each]["status"]["messages"][-1][1]["timestamp"] for each in theirs]
    first = fetched(f"{target.url}/history/{load.outcomes[0].prompt_id}")[load.outcomes[0].prompt_id]
    assert first["status"]["messages"][0][1]["timestamp"] >= max(ends)


def test_without_a_stranger_nothing_is_said(target: Target, tmp_path: Path, scale: float) -> None:
    load = run(target, tmp_path, probe(0.2 * scale), users=3, iterations=5, warmup=0, on_foreign="fail")
    assert load.contended == 0
    assert load.state == "valid"
    assert load.facts.notes == ()


# --- leftovers of killed runs ---


def test_leftovers_are_named_and_count_as_foreign(target: Target, tmp_path: Path, scale: float) -> None:
    left = {_send(target, 10.0 * scale, "20260101T000000-dead"), _send(target, 1.0, "20260101T000000-dead")}
    load = run(target, tmp_path, probe(0.1), users=1, duration=2.0 * scale, drain="0s", warmup=0)
    assert load.facts.notes[0] == (
        f"{target.url} still held 2 prompts of earlier runs: 20260101T000000-dead (2); "
        "--comfyload-delete-leftovers deletes them"
    )
    assert load.state == "contaminated"
    assert left <= _queued(target)


def test_leftovers_can_be_deleted_and_nobody_elses_are(target: Target, tmp_path: Path, scale: float) -> None:
    running, pending = (_send(target, 10.0 * scale, run_tag) for run_tag in ("one", "two"))
    theirs = _send(target, 1.0 * scale)
    load = run(target, tmp_path, probe(0.1 * scale), warmup=0, delete_leftovers=True)
    assert load.facts.notes[0] == f"{target.url} still held 2 prompts of earlier runs, deleted now: one (1), two (1)"
    assert load.success_rate == 100
    history = fetched(f"{target.url}/history")
    assert pending not in history
    assert history[running]["status"]["messages"][-1][0] == "execution_interrupted"
    assert history[theirs]["status"]["status_str"] == "success"


# --- presets that make everyone else wait ---


@pytest.mark.parametrize("preset", ["stress", "spike", "breakpoint"])
def test_a_busy_server_is_spared_from_great_stress(target: Target, tmp_path: Path, scale: float, preset: str) -> None:
    _send(target, 10.0 * scale)
    with pytest.raises(UsageError, match=rf"is busy: its queue holds 1 prompt, and preset='{preset}' would"):
        run(target, tmp_path, probe(0.1), preset=preset)
    assert not (tmp_path / ".comfyload").exists()
