"""Observers beside the load: the servers' memory, and out-of-memory lines in their logs.

A server that does not answer in time leaves a gap in its samples, never a failed run.
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

# Seconds of the run's clock between two looks; doubled whenever a server's samples are thinned.
PERIOD = 5.0
MOST_SAMPLES = 2000
# Real seconds that one look may take, and the last one, for which the end of the run waits.
PATIENCE = 2.0
LAST_PATIENCE = 1.0


@dataclass(slots=True)
class _Watched:
    """What is known of one server. `seen`: stamp of the last log line; None: not read yet, or it shows no log.

    `answers`: it answered the last look.
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
        """Count the silent retries in what is new; what was there before the run is not ours."""
        if self.seen is not None:
            seen = self.seen
            self.retries += sum(1 for entry in log if entry.stamp > seen and is_silent_retry(entry.message))
        self.seen = max((entry.stamp for entry in log), default=self.seen or "")


class ServerStats:
    """Open for the time of the load; afterwards `samples` and `silent_ooms` hold what was seen."""

    def __init__(self, servers: Sequence[ServerAddress], clock: Clock) -> None:
        self._clock = clock
        self._watched = [_Watched(ComfyClient(server, clock)) for server in servers]

    @property
    def samples(self) -> tuple[UsageSample, ...]:
        """The samples of all servers, in the order of time."""
        return tuple(sorted((sample for each in self._watched for sample in each.samples), key=lambda each: each.time))

    @property
    def silent_ooms(self) -> int | None:
        """Retries for lack of memory, at least: a log holds few lines. None where no server shows its log."""
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
    """Keep every other sample, and the peaks: a maximum is a fact that no thinning may lose."""
    peaks = {max(samples, key=lambda each: each.ram_used), max(samples, key=lambda each: each.vram_used)}
    return [sample for index, sample in enumerate(samples) if index % 2 == 0 or sample in peaks]


@contextlib.asynccontextmanager
async def alongside(*watching: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run coroutines that know no end of their own, as long as the context lasts."""
    tasks = [asyncio.create_task(each) for each in watching]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class CutShort:
    """Whether the run is being cancelled, and the limits that this sets to work that is under way."""

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
        """The result of `work`, or None where it has not ended `grace` seconds after the run was cut short."""
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
