"""Recording of the arrivals on running servers as a trace, by bounded reads of the end of their histories.

A server reports a prompt only when it has ended, so its line is written later than it arrived. Servers execute prompts
in order of arrival: once a prompt has ended, or the queue is empty, all earlier arrivals are known, and an `until` line
says so. Prompts that still wait when the recording ends are read from the queues.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.comfy import ComfyClient
from pytest_comfyload.errors import ServerError, UsageError
from pytest_comfyload.metrics.arrival_trace import arrival_line, gap_line, header_line, until_line
from pytest_comfyload.metrics.units import format_duration
from pytest_comfyload.monitor.history_tail import HistoryTail
from pytest_comfyload.monitor.watch import IDLE_LOOKS, PATIENCE, PAUSE, read_news
from pytest_comfyload.protocol.bodies import HistoryEntry
from pytest_comfyload.protocol.events import ExecutionStart

__all__ = ["ArrivedPrompt", "record", "workflow_hash"]

# Seconds between two `until` lines.
SIGN_OF_LIFE = 10.0
# Maximum seconds from the end of a prompt until it is found, if the server's clock is right.
CLOCKS_DIFFER = 10.0


@dataclass(frozen=True, slots=True)
class ArrivedPrompt:
    """A prompt's arrival and end, in seconds of the server's clock; None where it does not report them.

    `stand_in` names the event whose time `arrived` is, where the server does not report the arrival itself.
    """

    prompt_id: str
    workflow: str
    arrived: float | None
    ended: float | None
    stand_in: str = ""

    @classmethod
    def of(cls, entry: HistoryEntry) -> ArrivedPrompt:
        arrived, stand_in = entry.create_time, ""
        if arrived is None:
            arrived = next((event.stamp for event in entry.events if isinstance(event, ExecutionStart)), None)
            stand_in = "execution_start"
        stamps = [stamp for event in entry.events if (stamp := getattr(event, "stamp", None)) is not None]
        return cls(entry.prompt_id, workflow_hash(entry.graph), arrived, max(stamps, default=None), stand_in)


def workflow_hash(graph: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a hash of the nodes' classes and links, regardless of the values of their inputs."""
    nodes = [
        (node_id, node["class_type"], sorted((name, link) for name, link in node["inputs"].items() if _is_link(link)))
        for node_id, node in sorted(graph.items())
    ]
    return hashlib.sha256(json.dumps(nodes).encode()).hexdigest()[:12]


def _is_link(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and type(value[1]) is int


class _ServerRecorder:
    """Recorder of one server. Times are in seconds since `start`, an epoch time.

    `complete`: the time up to which all arrivals are known. `count`: arrivals written.
    """

    def __init__(
        self, address: ServerAddress, number: int | None, write: Callable[[str], None], say: Callable[[str], None]
    ) -> None:
        self.address, self.complete, self.count = address, 0.0, 0
        self._number, self._write, self._say = number, write, say
        self._client = ComfyClient(address, patience=PATIENCE)
        self._tail = HistoryTail[ArrivedPrompt]()
        self._start = 0.0
        self._remaining: int | None = None
        self._looks = 0
        self._up = True
        self._told_stand_in = False
        # Seconds by which the server's clock is behind; None until a prompt has ended.
        self._behind: float | None = None

    async def begin(self) -> None:
        """Find where the history ends now. Raises: UsageError, ServerError."""
        stats = await self._client.system_stats()
        if stats.time_scale not in (None, 1.0):
            raise UsageError(
                f"{self.address.url} is simulated at {stats.time_scale:g} times real time, and a trace is in real "
                "time: start it with --time-scale 1"
            )
        await read_news(self._client, self._tail, ArrivedPrompt.of)

    async def watch(self, start: float, period: float) -> None:
        """Poll the server until cancelled."""
        self._start = start
        while True:
            begun = time.monotonic()
            try:
                await self._look()
                if not self._up:
                    self._say(f"{self.address.url} answers again")
                self._up = True
            except ServerError as error:
                if self._up:
                    self._say(str(error))
                self._up = False
            pause = period if self._up else max(period, PAUSE)
            await asyncio.sleep(max(0.0, begun + pause - time.monotonic()))

    async def _look(self) -> None:
        """Poll the server once. Raises: ServerError."""
        asked = self._now
        remaining = await self._client.queue_remaining()
        if remaining or remaining != self._remaining or self._looks % IDLE_LOOKS == 0:
            await self._take_news()
            if not remaining:
                self.complete = max(self.complete, asked)
        self._remaining = remaining
        self._looks += 1

    async def _take_news(self) -> None:
        """Write the prompts that ended since the last poll. Raises: ServerError."""
        news = await read_news(self._client, self._tail, ArrivedPrompt.of)
        before = self.complete
        if self._behind is None and news.ended and self._up:
            self._compare_clocks(news.ended[-1])
        for prompt in news.ended:
            self._take(prompt)
        if news.lost or news.gap:
            self._gap(before, self._now)

    def _compare_clocks(self, prompt: ArrivedPrompt) -> None:
        """Compare clocks by a prompt that must have ended since the last poll, as that did not find it."""
        self._behind = 0.0
        seconds = 0.0 if prompt.ended is None else time.time() - prompt.ended
        if not -1 <= seconds <= CLOCKS_DIFFER:
            self._say(f"{self.address.url}: its clock differs by {abs(seconds):.0f} s, which are taken off its times")
            self._behind = seconds

    def _take(self, prompt: ArrivedPrompt) -> None:
        if prompt.stand_in and not self._told_stand_in:
            self._say(
                f"{self.address.url} does not report when prompts arrive (ComfyUI does from 0.3.69 on): the start "
                "of execution is recorded instead"
            )
            self._told_stand_in = True
        if prompt.arrived is None:
            return
        arrived = min(prompt.arrived + (self._behind or 0.0) - self._start, self._now)
        if arrived < 0:
            return
        self._write(arrival_line(arrived, prompt.workflow, self._number, prompt.stand_in))
        self.count += 1
        self.complete = max(self.complete, arrived + 0.001)

    def _gap(self, begin: float, end: float) -> None:
        self._write(gap_line(begin, end, self._number))
        self._say(f"{self.address.url}: arrivals between {begin:.0f} s and {end:.0f} s may be missing: {_LOST}")
        self.complete = max(self.complete, end)

    async def finish(self) -> None:
        """Write the prompts that ended since the last poll, and those that wait."""
        end = self._now
        try:
            waiting = [ArrivedPrompt.of(entry) for entry in await self._client.queued()]
            await self._take_news()
        except ServerError as error:
            self._gap_at_the_end(end, str(error))
            return
        seen = set(self._tail.seen or ())
        waiting = [prompt for prompt in waiting if prompt.prompt_id not in seen]
        for prompt in waiting:
            self._take(prompt)
        if unknown := sum(prompt.arrived is None for prompt in waiting):
            self._gap_at_the_end(end, f"{unknown} prompts wait, and the server does not report when they arrived")
        self.complete = end

    def _gap_at_the_end(self, end: float, why: str) -> None:
        self._say(f"{self.address.url}: the last {format_duration(end - self.complete)} are not complete: {why}")
        self._write(gap_line(self.complete, end, self._number))
        self.complete = end

    async def aclose(self) -> None:
        await self._client.aclose()

    @property
    def _now(self) -> float:
        return time.time() - self._start


_LOST = "the server was restarted, its history cleared, or more ended between two polls than it keeps"


async def record(
    addresses: Sequence[ServerAddress],
    output: TextIO,
    seconds: float,
    stopped: asyncio.Event,
    period: float = 1.0,
    say: Callable[[str], None] = lambda line: None,
) -> int:
    """Record for `seconds`, or until `stopped` is set; return the number of arrivals written.

    Raises: UsageError or ServerError if the recording cannot begin; OSError if a line cannot be written.
    """

    def write(line: str) -> None:
        output.write(line)
        output.flush()

    several = len(addresses) > 1
    recorders = [
        _ServerRecorder(address, number if several else None, write, say) for number, address in enumerate(addresses)
    ]
    async with contextlib.AsyncExitStack() as stack:
        for recorder in recorders:
            stack.push_async_callback(recorder.aclose)
        await asyncio.gather(*(recorder.begin() for recorder in recorders))
        start = time.time()
        write(header_line(datetime.fromtimestamp(start, UTC)))
        watches = [recorder.watch(start, period) for recorder in recorders]
        await _until(stopped, seconds, [*watches, _signs_of_life(recorders, write)])
        await asyncio.gather(*(recorder.finish() for recorder in recorders))
        write(until_line(min(recorder.complete for recorder in recorders)))
    return sum(recorder.count for recorder in recorders)


async def _until(stopped: asyncio.Event, seconds: float, work: Sequence[Any]) -> None:
    """Run the work for `seconds`, or until `stopped` is set. Raises: what the work raises."""
    tasks = [asyncio.ensure_future(each) for each in (stopped.wait(), *work)]
    try:
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _signs_of_life(recorders: Sequence[_ServerRecorder], write: Callable[[str], None]) -> None:
    told = 0.0
    while True:
        await asyncio.sleep(SIGN_OF_LIFE)
        complete = min(recorder.complete for recorder in recorders)
        if complete > told:
            write(until_line(complete))
            told = complete
