"""What somebody else, or the server itself, can do to a prompt without any event on its socket."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from pytest_comfyload.result.outcome import OutcomeStatus
from tests.contract.loads import fetched, probe, run
from tests.real_comfyui.target import Target


def _meanwhile(act: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=act)
    thread.start()
    return thread


def _waiting(target: Target, least: int) -> list[Any]:
    """Return the pending items of the queue once there are at least `least`."""
    while len(pending := fetched(f"{target.url}/queue")["queue_pending"]) < least:
        time.sleep(0.02)
    return list(pending)


def test_deleted_from_the_queue_by_somebody(target: Target, tmp_path: Path) -> None:
    """A deleted prompt leaves no trace: neither its socket nor the history ever mentions it."""

    def delete() -> None:
        victim = max(_waiting(target, 2))[1]
        body = json.dumps({"delete": [victim]}).encode()
        urllib.request.urlopen(urllib.request.Request(f"{target.url}/queue", body), timeout=10).close()

    thread = _meanwhile(delete)
    # Twenty of the simulator's seconds are one real second: long enough for the other thread to intervene.
    load = run(target, tmp_path, probe(12.0 if target.name == "simulator" else 1.0), burst=3, warmup=0)
    thread.join()
    assert load.accounting.by_status == {OutcomeStatus.SUCCESS: 2, OutcomeStatus.LOST: 1}
    assert "in neither queue nor history" in next(str(each.error) for each in load.outcomes if not each.succeeded)


@pytest.mark.real
def test_a_socket_gone_deaf_on_the_real_server(real_comfyui: str, tmp_path: Path) -> None:
    """Another socket with the same client_id takes over its events and closes: the server forgets the first one."""
    target = Target("real", real_comfyui, "tiny_sd15.safetensors")

    async def steal() -> None:
        while not (running := fetched(f"{target.url}/queue")["queue_running"]):
            await asyncio.sleep(0.02)
        client_id = running[0][3]["client_id"]
        async with connect(f"ws{target.url[4:]}/ws?clientId={client_id}") as thief:
            await thief.recv()

    thread = _meanwhile(lambda: asyncio.run(steal()))
    load = run(target, tmp_path, probe(2.0), iterations=3, warmup=0)
    thread.join()
    assert load.accounting.by_status == {OutcomeStatus.SUCCESS: 3}
    deaf, *after = load.outcomes
    # Its end was found in the history, seconds later, with complete stamps. A new socket was then opened.
    assert deaf.generation_time == pytest.approx(2.0, abs=0.5)
    assert (deaf.delivery_time or 0) > 1.0
    assert all((outcome.delivery_time or 0) < 1.0 for outcome in after)
    assert deaf.client_id not in {outcome.client_id for outcome in after}


def test_a_poisson_load(target: Target, tmp_path: Path) -> None:
    load = run(target, tmp_path, probe(0.2), rate="90/min", arrival="poisson", duration="10s", seed=4)
    assert load.success_rate == 100
    assert load.dropped == 0
    assert load.accounting.intended == len(load.outcomes) >= 5
    gaps = [after.intended - before.intended for before, after in zip(load.outcomes, load.outcomes[1:], strict=False)]
    assert max(gaps) > 2 * min(gaps)


def test_a_backlog_that_only_grows_stops_the_run(simulator: str, tmp_path: Path) -> None:
    target = Target("simulator", simulator, "tiny_sd15.safetensors")
    rate: dict[str, Any] = {"rate": "60/min", "duration": "60m", "drain": "1s"}
    load = run(target, tmp_path, probe(30.0), abort_on_saturation=True, warmup=0, **rate)
    assert any("stopped early: over-saturated: the backlog grew from" in note for note in load.facts.notes)
    assert load.window < 3000
    assert load.accounting.submitted == sum(load.accounting.by_status.values())
