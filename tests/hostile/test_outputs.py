"""Outputs of a prompt: downloaded in parallel, limited in number and memory, and abandoned soon after Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.clock import Clock
from pytest_comfyload.client.response_body import Memory
from pytest_comfyload.engine import user_pool
from pytest_comfyload.engine.engine import run_plan
from pytest_comfyload.engine.user import MAX_OUTPUTS, PARALLEL_DOWNLOADS
from pytest_comfyload.errors import ResponseTooLarge
from pytest_comfyload.history.spool import read_spool
from pytest_comfyload.history.store import Store
from pytest_comfyload.protocol.events import Preview
from pytest_comfyload.protocol.prompt_state import MAX_PICTURES, PromptState
from pytest_comfyload.result.outcome import Outcome, OutcomeStatus
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.scenario.executors import PerUserIterations
from pytest_comfyload.scenario.scenario import Scenario
from tests.client.test_outputs import encoded, noise
from tests.engine.test_broken_servers import Broken
from tests.engine.test_engine import group, plan
from tests.hostile.slow_outputs import slow_outputs, state
from tests.plugin.suite import Suite
from tests.run.fast_server import GRAPH

# Wall seconds. The target is four, of which pytest takes one to print what was interrupted; on a machine that runs
# other tests as well, everything takes longer.
SOON = 12.0
OUTPUTS = 16
PICTURE = encoded(noise("RGB"), ".png")

LOAD = """
@load_scenario("graph.json", users=3, iterations=4, warmup=0, timeout="60s", max_send_lag="30s", allow_cached=True)
def test_load(load):
    pass
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Suite:
    for name in [name for name in os.environ if name.startswith(("COMFYUI_", "GITHUB_", "PYTEST_XDIST_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "400")
    suite = Suite(pytester)
    (suite.folder / "graph.json").write_text(json.dumps(GRAPH), encoding="utf-8")
    return suite


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("silent", signal.SIGINT),
        ("silent", signal.SIGTERM),
        ("drip", signal.SIGINT),
        ("gzip", signal.SIGINT),
        ("silent history", signal.SIGINT),
        ("heavy", signal.SIGINT),
    ],
    ids=lambda each: str(each).replace(" ", "-"),
)
def test_a_signal_ends_downloads_and_decoding_soon(suite: Suite, kind: str, number: int) -> None:
    suite.write("test_it.py", LOAD)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--comfyui-url"]
    with slow_outputs(kind, OUTPUTS) as url:
        child = subprocess.Popen(
            [*command, url], cwd=suite.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            _wait_until(lambda: _in_the_middle(suite, url, kind))
            began = time.monotonic()
            child.send_signal(number)
            output, _ = child.communicate(timeout=60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            child.communicate()
        seconds = time.monotonic() - began
        left = state(url)["running"]
    assert child.returncode == pytest.ExitCode.INTERRUPTED, output
    assert seconds < SOON, output
    assert "INTERNALERROR" not in output
    assert "Traceback" not in output
    assert left == []
    _expect_kept(suite, output)


def _expect_kept(suite: Suite, output: str) -> None:
    store = Store.open(suite.folder / ".comfyload")
    (row,) = store.runs()
    run = store.load(row)
    first, *others = (outcome for outcome in run.outcomes if outcome.status != "censored")
    assert run.state == "incomplete"
    assert (first.status, len(first.outputs), first.outputs[0].width) == ("success", OUTPUTS, 64)
    # Outputs that were not fetched are still listed by name.
    assert all(len(outcome.outputs) == OUTPUTS for outcome in others)


def _in_the_middle(suite: Suite, url: str, kind: str) -> bool:
    """Return whether the first prompt has finished, outputs of the second were requested, and the third is running."""
    now = state(url)
    others = [name for name in now["views"] if not name.startswith("0-")]
    ended = sum(len(list(read_spool(path))) for path in suite.folder.glob(".comfyload/spool/*.jsonl"))
    return ended >= 1 and len(others) >= (2 * OUTPUTS if kind == "heavy" else 1) and bool(now["running"])


def _wait_until(condition: Callable[[], bool], timeout: float = 40.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def test_pictures_that_are_too_large_to_be_decoded_are_named_in_a_note(tmp_path: Path) -> None:
    scenario = Scenario.build(GRAPH, users=1, iterations=2, warmup=0, allow_cached=True)
    with slow_outputs("huge", 1) as url:
        load = run_load(LoadRun(scenario, (ServerAddress.parse(url),), "a title", tmp_path, tmp_path))
    assert load.success_rate == 100
    notes = [note for note in load.facts.notes if "decoded" in note]
    assert notes == [
        "1 prompt delivered pictures that were not decoded, since they have more than 67 million pixels or a format "
        "that this Pillow does not support: 1-0.webp"
    ]


# --- how many, and how much ------------------------------------------------------------------------------------------


def _outcomes(
    on_view: Callable[[web.Request], Awaitable[web.StreamResponse]], outputs: list[dict[str, str]], **changes: Any
) -> list[Outcome]:
    """Return the outcomes of a prompt with these outputs."""

    async def succeed(server: Broken, prompt_id: str) -> None:
        for kind, data in (
            ("execution_start", {"timestamp": 1000}),
            ("executed", {"node": "2", "output": {"images": outputs}}),
            ("execution_success", {"timestamp": 1001}),
            ("executing", {"node": None}),
        ):
            await asyncio.sleep(0.002)  # a stamp ahead of the current time would be clamped to what the client saw
            await server.sockets[-1].send_json({"type": kind, "data": {"prompt_id": prompt_id, **data}})

    found: list[Outcome] = []

    async def drive() -> None:
        async with Broken(succeed, on_view=on_view) as url:
            one = group(PerUserIterations(users=1, iterations=1), timeout=20.0, **changes)
            await asyncio.wait_for(run_plan(plan(url, groups=[one]), Clock(), found.append), 30)

    asyncio.run(drive())
    return found


def _named(count: int) -> list[dict[str, str]]:
    return [{"filename": f"{number}.png", "subfolder": "", "type": "output"} for number in range(count)]


class _Views:
    """Answers with a delay; `most` is the highest number of requests open at the same time."""

    def __init__(self, body: bytes = PICTURE, latency: float = 0.05) -> None:
        self.body, self.latency = body, latency
        self.open = self.most = 0
        self.names: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.names.append(request.query["filename"])
        self.open += 1
        self.most = max(self.most, self.open)
        await asyncio.sleep(self.latency)
        self.open -= 1
        return web.Response(body=self.body)


def test_outputs_are_downloaded_several_at_a_time_and_kept_in_their_order() -> None:
    views = _Views()
    (outcome,) = _outcomes(views.answer, _named(16))
    assert outcome.status is OutcomeStatus.SUCCESS
    assert views.most == PARALLEL_DOWNLOADS
    assert [file.filename for file in outcome.outputs] == [f"{number}.png" for number in range(16)]
    # Three rounds, which are not part of the generation time.
    assert outcome.fetch_time is not None
    assert outcome.fetch_time >= 3 * views.latency
    assert outcome.generation_time == pytest.approx(0.001)


def test_a_file_that_two_nodes_name_is_downloaded_once() -> None:
    views = _Views()
    (outcome,) = _outcomes(views.answer, _named(2) * 3)
    assert sorted(views.names) == ["0.png", "1.png"]
    assert len(outcome.outputs) == 2


@pytest.mark.parametrize(("count", "fetch", "status"), [(1001, True, "http_error"), (1001, False, "success")])
def test_too_many_outputs_are_refused_and_said(count: int, fetch: bool, status: str) -> None:
    views = _Views()
    (outcome,) = _outcomes(views.answer, _named(count), fetch=fetch)
    assert (outcome.status, views.names) == (status, [])
    if fetch:
        assert f"the prompt has {count} outputs, and at most {MAX_OUTPUTS} are downloaded" in str(outcome.error)
    else:
        assert len(outcome.outputs) == count


def test_outputs_take_limited_memory_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_pool, "LARGEST_OUTPUTS", 1)
    monkeypatch.setattr(user_pool, "MAX_OUTPUT", 10_000)
    assert _outcomes(_Views(PICTURE.ljust(4000, b"x")).answer, _named(2))[0].status is OutcomeStatus.SUCCESS
    (outcome,) = _outcomes(_Views(PICTURE.ljust(4000, b"x")).answer, _named(3))
    assert outcome.status is OutcomeStatus.HTTP_ERROR
    assert "outputs that are downloaded at the same time take more than 10000 bytes" in str(outcome.error)


def test_memory_is_released_when_outputs_were_decoded() -> None:
    memory = Memory(100)
    shares = [memory.share(), memory.share()]
    shares[0].take(60, "url")
    with pytest.raises(ResponseTooLarge):
        shares[1].take(41, "url")
    shares[1].take(40, "url")
    shares[0].release()
    shares[0].release()
    assert memory.held == 40


def test_the_first_failure_ends_the_other_downloads() -> None:
    async def view(request: web.Request) -> web.StreamResponse:
        if request.query["filename"] == "3.png":
            return web.Response(status=500)
        await asyncio.sleep(0 if request.query["filename"] == "0.png" else 20)
        return web.Response(body=PICTURE)

    (outcome,) = _outcomes(view, _named(16))
    assert outcome.status is OutcomeStatus.HTTP_ERROR
    assert "GET /view answered 500" in str(outcome.error)
    assert len(outcome.outputs) == 16
    assert [file.filename for file in outcome.outputs if file.size is not None] == ["0.png"]


def test_pictures_over_the_socket_are_limited_and_said() -> None:
    state = PromptState("p", {"1": "SaveImageWebsocket"})
    state.send(0.0)
    for _ in range(MAX_PICTURES + 2):
        state.apply(Preview(len(PICTURE), "p", "1", PICTURE), 1.0)
    assert (len(state.pictures), state.dropped_pictures) == (MAX_PICTURES, 2)
