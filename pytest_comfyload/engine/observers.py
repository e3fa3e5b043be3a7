"""Observation of the servers during the load: their memory, and out-of-memory lines in their logs.

A server that does not answer in time causes a gap in its samples, but never a failed run.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.clock import Clock
from pytest_comfyload.client.comfy import ComfyClient
from pytest_comfyload.errors import HttpError, LoginRequired, NotComfyUI, ServerError
from pytest_comfyload.protocol.bodies import LogEntry
from pytest_comfyload.protocol.oom import is_silent_retry
from pytest_comfyload.protocol.system_stats import used_memory
from pytest_comfyload.result.telemetry import UsageSample

__all__ = ["CutShort", "ServerStats", "alongside"]

T = TypeVar("T")

# Seconds of the run's clock between two polls; doubled whenever a server's samples are thinned.
PERIOD = 5.0
MOST_SAMPLES = 2000
# Real seconds that a poll may take, and the last poll, for which the end of the run waits.
PATIENCE = 2.0
LAST_PATIENCE = 1.0


@dataclass(slots=True)
class _Watched:
    """What is known about one server.

    `seen` is the timestamp of the last log line; None if the log was not read yet or is not accessible. `answers` means
    that the server answered the last poll.
    """

    client: ComfyClient
    period: float = PERIOD
    samples: list[UsageSample] = field(default_factory=list)
    seen: str | None = None
    retries: int = 0
    shows_log: bool = True
    answers: bool = False

    def keep(self, sample: UsageSample) -> None:
        self.samples.append(sample)
        if len(self.samples) > MOST_SAMPLES:
            self.samples = _thinned(self.samples)
            self.period *= 2

    def read(self, log: Sequence[LogEntry]) -> None:
        """Count the silent retries in new lines. Lines from before the run are ignored."""
        if self.seen is not None:
            seen = self.seen
            self.retries += sum(1 for entry in log if entry.stamp > seen and is_silent_retry(entry.message))
        self.seen = max((entry.stamp for entry in log), default=self.seen or "")


class ServerStats:
    """An observer of the servers during the load. Afterwards `samples` and `silent_ooms` have the results."""

    def __init__(self, servers: Sequence[ServerAddress], clock: Clock) -> None:
        self._clock = clock
        self._watched = [_Watched(ComfyClient(server, clock)) for server in servers]

    @property
    def samples(self) -> tuple[UsageSample, ...]:
        """The samples of all servers, ordered by time."""
        return tuple(sorted((sample for each in self._watched for sample in each.samples), key=lambda each: each.time))

    @property
    def silent_ooms(self) -> int | None:
        """Minimum number of retries for lack of memory, as logs keep few lines; None if no log is accessible."""
        open_logs = [each.retries for each in self._watched if each.shows_log and each.seen is not None]
        return sum(open_logs) if open_logs else None

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            for each in self._watched:
                stack.push_async_callback(each.client.aclose)
            await asyncio.gather(*(self._look(each) for each in self._watched))
            async with alongside(*(self._watch(each) for each in self._watched)):
                yield
                await asyncio.gather(*(self._look(each, LAST_PATIENCE) for each in self._watched if each.answers))

    async def _watch(self, each: _Watched) -> None:
        while True:
            await self._clock.sleep_until(self._clock.now() + each.period)
            await self._look(each)

    async def _look(self, each: _Watched, patience: float = PATIENCE) -> None:
        try:
            async with asyncio.timeout(patience):
                ram, vram = used_memory(await each.client.system_stats())
                each.keep(UsageSample(each.client.address.url, self._clock.now(), ram, vram))
                if each.shows_log:
                    await self._read_log(each)
            each.answers = True
        except (ServerError, TimeoutError):
            each.answers = False

    async def _read_log(self, each: _Watched) -> None:
        try:
            each.read(await each.client.log())
        except (HttpError, LoginRequired, NotComfyUI):
            each.shows_log = False


def _thinned(samples: list[UsageSample]) -> list[UsageSample]:
    """Keep every other sample, and the peaks, which thinning must not lose."""
    peaks = {max(samples, key=lambda each: each.ram_used), max(samples, key=lambda each: each.vram_used)}
    return [sample for index, sample in enumerate(samples) if index % 2 == 0 or sample in peaks]


@contextlib.asynccontextmanager
async def alongside(*watching: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run coroutines that never end by themselves, and cancel them at the end of the context."""
    tasks = [asyncio.create_task(each) for each in watching]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class CutShort:
    """Whether the run is being cancelled, and the time limits that work in progress then gets."""

    def __init__(self) -> None:
        self._is_set = False
        self._limits: dict[asyncio.Timeout, float] = {}

    def set(self) -> None:
        self._is_set = True
        now = asyncio.get_running_loop().time()
        for limit, grace in self._limits.items():
            if not limit.expired():
                limit.reschedule(now + grace)

    async def limit(self, work: Coroutine[Any, Any, T], grace: float = 0.0) -> T | None:
        """Return the result of `work`; None if it has not ended `grace` seconds after the run was cancelled."""
        limit = asyncio.timeout(grace if self._is_set else None)
        try:
            async with limit:
                self._limits[limit] = grace
                return await work
        except TimeoutError:
            if limit.expired():
                return None
            raise
        finally:
            self._limits.pop(limit, None)
