"""Monitoring of one server by bounded requests for its queue, the end of its history and, less often, its memory.

No WebSocket is opened unless requested: one that is not read blocks a server's events to all of its clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from urllib.parse import urlsplit

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.comfy import ComfyClient
from pytest_comfyload.errors import ConnectionRefused, HttpError, NotComfyUI, ResponseTooLarge, ServerError, UsageError
from pytest_comfyload.gpu.choose import choose
from pytest_comfyload.gpu.spec import GpuSpec
from pytest_comfyload.monitor.ended_prompt import EndedPrompt, ended_prompt
from pytest_comfyload.monitor.history_tail import E, HistoryTail, News
from pytest_comfyload.monitor.log_figures import LogFigures
from pytest_comfyload.monitor.queue_events import QueueCounts, QueueEvents
from pytest_comfyload.monitor.server_record import ServerRecord
from pytest_comfyload.protocol.bodies import HistoryEntry
from pytest_comfyload.protocol.json_values import finite
from pytest_comfyload.protocol.system_stats import SystemStats, own_devices, used_memory
from pytest_comfyload.result.telemetry import GpuSample
from pytest_comfyload.text import harmless

__all__ = ["ServerWatch", "label_of", "read_news"]

# Timeout of one request in seconds.
PATIENCE = 5.0
# Seconds between two polls of a server that does not answer.
PAUSE = 5.0
# Seconds between two checks of memory, and of whether the worker is alive.
SELDOM = 5.0
# Seconds after which a GPU sample is no longer shown.
SAMPLES_SERVE = 15.0
# One in this many polls of an idle server reads the history, which shows prompts that came and went between polls.
IDLE_LOOKS = 5
# While prompts wait and none ends, the queue is read after STALL seconds, or STALLED_P95 times the P95 if longer.
STALL, STALLED_P95 = 60.0, 3.0


def label_of(url: str) -> str:
    """Return the `server` label: host and port, plus the path of a server behind a proxy."""
    parts = urlsplit(url)
    return parts.netloc + parts.path


async def read_news(client: ComfyClient, tail: HistoryTail[E], of: Callable[[HistoryEntry], E]) -> News[E]:
    """Poll the end of a server's history once; `of` converts an entry. Raises: ServerError."""
    reading = tail.look()
    request = next(reading)
    while True:
        try:
            page = await client.history_page(*request)
        except ResponseTooLarge:
            # Prompts may contain pictures. The next poll reads the same entries in smaller pages.
            tail.page = max(1, tail.page // 4)
            raise
        try:
            request = reading.send([of(entry) for entry in page])
        except StopIteration as done:
            news: News[E] = done.value
            return news


class ServerWatch:
    """Watch that keeps the record of one server up to date while `watching()`.

    Args:
        period: Seconds between two polls.
        seen: Ids of prompts that an earlier process has counted.
        events: Open a WebSocket to count accepted and deleted prompts.
        logs: Read the server's log for the sampling speed, model loads and silent out-of-memory retries.
    """

    def __init__(
        self,
        address: ServerAddress,
        record: ServerRecord,
        gpu: GpuSpec | None = None,
        period: float = 1.0,
        seen: tuple[str, ...] | None = None,
        say: Callable[[str], None] = lambda line: None,
        *,
        events: bool = False,
        logs: bool = False,
    ) -> None:
        self.address = address
        self.record = record
        self.tail = HistoryTail[EndedPrompt](seen)
        self.looked_at = time.monotonic()
        self._gpu = gpu
        self.period = period
        self._say = say
        self._client = ComfyClient(address, patience=PATIENCE)
        self._counts = QueueCounts(record)
        self._events = QueueEvents(address, self._counts, say) if events else None
        self._log = LogFigures(record) if logs else None
        self._log_error = ""
        self._gpus = contextlib.AsyncExitStack()
        self._looks = 0
        self._remaining: int | None = None
        self._last_number = -1.0
        self._was_gone = self._was_refused = False
        self._seldom_at = -SELDOM
        self._ended_at = time.monotonic()
        self._idle_looks = 0
        self._ended_before = 0
        self._has_jobs = True

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._watch())]
        if self._events is not None:
            tasks.append(asyncio.create_task(self._events.watch()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._gpus.aclose()
            await self._client.aclose()

    async def _watch(self) -> None:
        while True:
            begun = time.monotonic()
            try:
                await self._look()
                self.record.up, self.record.error = True, ""
            except ServerError as error:
                self._failed(error)
            self._drop_old_samples()
            self.looked_at = time.monotonic()
            self.record.look_seconds = self.looked_at - begun
            pause = self.period if self.record.up else max(self.period, PAUSE)
            await asyncio.sleep(max(0.0, begun + pause - self.looked_at))

    def _failed(self, error: ServerError) -> None:
        record = self.record
        if record.up or not self._looks:
            self._say(str(error))
        record.failures += 1
        record.error = harmless(str(error), 300)
        record.up, self._was_gone, self._seldom_at = False, True, -SELDOM
        # Nothing was listening: the server had stopped.
        self._was_refused = self._was_refused or isinstance(error, ConnectionRefused)
        record.waiting = record.running = record.worker_dead = None
        record.ram_used = record.vram_used = record.vram_total = record.steps_per_second = None
        record.reads_log = None if self._log is None else False
        self._looks += 1

    async def _look(self) -> None:
        """Poll the server once. Raises: ServerError."""
        left = self._counts.begin_look()
        remaining = await self._client.queue_remaining()
        if remaining or remaining != self._remaining or self._looks % IDLE_LOOKS == 0:
            self._take(await read_news(self._client, self.tail, ended_prompt))
            self._counts.end_look(left)
        self._remaining = remaining
        self._looks += 1
        if time.monotonic() - self._seldom_at >= SELDOM:
            self._seldom_at = time.monotonic()
            await self._look_seldom(remaining)
        running = 0 if self.record.worker_dead else min(1, remaining)
        self.record.waiting, self.record.running = remaining - running, running

    def _take(self, news: News[EndedPrompt]) -> None:
        begins_again = any(number < self._last_number for number in _numbers(news.ended))
        if (news.lost and self._was_gone) or (news.all_new and (self._was_refused or begins_again)):
            self.record.restarts += 1
            self._last_number = -1.0
        elif news.lost or news.gap:
            self.record.gaps += 1
        self._last_number = max([self._last_number, *_numbers((*news.before, *news.ended))])
        if news.lost or news.gap:
            self._counts.forget()
        self.record.count(news.ended)
        self.record.recent.add((*news.before, *news.ended))
        self._was_gone = self._was_refused = False
        if news.ended:
            self._ended_at = time.monotonic()

    async def _look_seldom(self, remaining: int) -> None:
        """Check memory, GPUs, the worker and the log. Raises: ServerError."""
        stats = await self._client.system_stats()
        record = self.record
        record.ram_used, record.vram_used, record.vram_total = _memory(stats)
        version, device = harmless(stats.version, 40), harmless(", ".join(stats.devices), 200)
        if (record.version, record.device) != (version, device):
            record.simulated, record.recent.scale = stats.time_scale is not None, stats.time_scale or 1.0
            await self._watch_gpus(stats)
            record.version, record.device = version, device
        if not remaining:
            self._ended_at, self._idle_looks = time.monotonic(), 0
        record.worker_dead = bool(remaining) and await self._is_worker_idle()
        if self._log is not None:
            await self._read_log(self._log)

    async def _read_log(self, figures: LogFigures) -> None:
        """Read the log. An error is reported once and does not fail the poll."""
        try:
            figures.read(await self._client.log(), time.monotonic())
        except ServerError as error:
            if str(error) != self._log_error:
                self._say(f"log: {error}")
            self._log_error = str(error)
            self.record.reads_log, self.record.steps_per_second = False, None
        else:
            self.record.reads_log, self._log_error = True, ""

    async def _is_worker_idle(self) -> bool:
        """Return whether, at two checks in a row, no prompt was executed and none had ended since the check before.

        Raises: ServerError.
        """
        running, ended = await self._running(), self.record.ended
        self._idle_looks = self._idle_looks + 1 if not running and ended == self._ended_before else 0
        self._ended_before = ended
        return self._idle_looks >= 2

    async def _running(self) -> int:
        """Return the number of running prompts; 1 if it is unknown. Raises: ServerError."""
        if self._has_jobs:
            try:
                return await self._client.running_jobs()
            except HttpError as error:
                if error.status != 404:
                    raise
                self._has_jobs = False
        stalled = time.monotonic() - self._ended_at
        p95 = self.record.prompt.quantile(0.95) or 0.0
        if stalled < max(STALL, STALLED_P95 * p95):
            return 1
        try:
            return len((await self._client.queue()).running)
        except ResponseTooLarge:
            return 1

    async def _watch_gpus(self, stats: SystemStats) -> None:
        """Start to sample the server's GPUs; if they cannot be read, nothing is shown."""
        await self._gpus.aclose()
        self.record.gpu_samples.clear()
        try:
            chosen = await choose(self.address, stats, self._gpu)
            self.record.gpus = chosen.facts
            self._say(f"GPUs of {chosen.line}")
            if chosen.source is not None:
                await self._gpus.enter_async_context(chosen.source.watching(self._keep, time.monotonic))
        except UsageError as error:
            self._say(f"GPUs of {self.address.url} are not shown: {error}")

    def _keep(self, sample: GpuSample) -> None:
        self.record.gpu_samples[sample.gpu] = sample

    def _drop_old_samples(self) -> None:
        samples, oldest = self.record.gpu_samples, time.monotonic() - SAMPLES_SERVE
        for gpu in [gpu for gpu, sample in samples.items() if sample.time < oldest]:
            del samples[gpu]


def _numbers(prompts: Iterable[EndedPrompt]) -> list[float]:
    """Return the prompts' queue numbers, from the server's counter; negative ones, sent to the front, are left out."""
    return [each.number for each in prompts if each.number is not None and each.number >= 0]


def _memory(stats: SystemStats) -> tuple[float | None, float | None, float | None]:
    """Return the machine's used memory, and the used and total memory of its GPUs; None where it is not reported."""
    try:
        ram, vram = used_memory(stats)
    except NotComfyUI:
        return None, None, None
    devices = own_devices(stats.raw)
    if not devices or any(device.get("type") == "cpu" for device in devices):
        # For a CPU, the server reports the memory of the machine again.
        return ram, None, None
    return ram, vram, finite(sum(finite(device.get("vram_total")) or 0.0 for device in devices))
