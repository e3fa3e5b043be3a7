"""Periodic probes of idle servers with the same small workflow, which show a slowdown in production on equal work.

Each probe has its own seed, so that nothing comes from the cache, and runs through the engine of load tests, which
measures its phases. It counts as one of the server's generations like any other prompt.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.errors import ComfyloadError
from pytest_comfyload.monitor.server_record import ServerRecord
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.run.observer import RunObserver
from pytest_comfyload.scenario.scenario import Scenario

__all__ = ["Probe", "probing"]

# Seconds between two checks of whether a server has become idle, once a probe is due.
RETRY = 5.0


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe: `scenario` sends one prompt; `every` is the pause in seconds between two probes of a server."""

    scenario: Scenario
    every: float

    @classmethod
    def of(cls, workflow: str, every: float) -> Probe:
        """Build a probe that runs a workflow once. Raises: UsageError."""
        return cls(Scenario.build(workflow, users=1, iterations=1, warmup=0, timeout="10m"), every)


@contextlib.asynccontextmanager
async def probing(
    probe: Probe, address: ServerAddress, record: ServerRecord, say: Callable[[str], None]
) -> AsyncIterator[None]:
    """Probe one server until the context exits; a probe still running then is removed from the server."""
    task = asyncio.create_task(_repeat(probe, address, record, say))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _repeat(probe: Probe, address: ServerAddress, record: ServerRecord, say: Callable[[str], None]) -> None:
    while True:
        if record.up and not record.waiting and not record.running:
            record.probe.take(await _sent(probe.scenario, address, say))
            await asyncio.sleep(probe.every)
        else:
            await asyncio.sleep(min(RETRY, probe.every))


class _Interruptible(RunObserver):
    def __init__(self) -> None:
        self.ends = threading.Event()

    def stopped(self) -> bool:
        return self.ends.is_set()


async def _sent(scenario: Scenario, address: ServerAddress, say: Callable[[str], None]) -> Outcome | None:
    """Run one prompt in a thread, which stops soon after a cancellation; None if the prompt could not be sent."""
    observer = _Interruptible()

    def run() -> Outcome:
        with tempfile.TemporaryDirectory() as folder:
            load = LoadRun(
                scenario, (address,), "probe", Path.cwd(), Path(folder), observer=observer, keep_pictures=False
            )
            return run_load(load).outcomes[0]

    try:
        outcome = await asyncio.to_thread(run)
    except ComfyloadError as error:
        say(f"probe of {address.url}: {error}")
        return None
    finally:
        observer.ends.set()
    if not outcome.succeeded:
        say(f"probe of {address.url}: {outcome.status}: {outcome.error}")
    return outcome
