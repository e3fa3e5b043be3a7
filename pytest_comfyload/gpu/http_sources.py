"""GPU sources that are polled: a Prometheus endpoint, ComfyUI's /system_stats, or a function of a plugin."""

from __future__ import annotations

import asyncio
import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.comfy import ComfyClient
from pytest_comfyload.client.transport import Transport
from pytest_comfyload.errors import NotComfyUI, ServerError
from pytest_comfyload.gpu.prometheus import Card, cards_of, parse_metrics
from pytest_comfyload.gpu.spec import SOURCES, GpuReading, Keep, Now
from pytest_comfyload.protocol.json_values import finite
from pytest_comfyload.protocol.system_stats import MOST_DEVICES, SystemStats, own_devices
from pytest_comfyload.redaction import redacted
from pytest_comfyload.result.telemetry import GpuSample

__all__ = [
    "PATIENCE",
    "CalledSource",
    "MetricsSource",
    "Poller",
    "Read",
    "SystemStatsSource",
    "devices_of",
    "wall_period",
]

# Seconds of the run's clock between two polls.
PERIOD = 1.0


# Real seconds that one poll may take, and seconds for the last poll, for which the end of the run waits.
PATIENCE = 2.0
_LAST_PATIENCE = 1.0
# Minimum real seconds between two polls, as a simulator's seconds can be short. At the ×20 of the embedded simulator
# this is one virtual second: polls must not miss memory that is full for one second.
_LEAST = 0.05

Read = Callable[[], Awaitable[Sequence[Card]]]


def wall_period(seconds: float, scale: float = 1.0) -> float:
    """Return the real seconds between two polls that should be `seconds` of the run's clock apart."""
    return max(seconds / scale, _LEAST)


class Poller:
    """Poller that reads cards every `period` real seconds; `what` is polled, for messages."""

    def __init__(self, server: str, what: str, period: float) -> None:
        self._server = server
        self._what = what
        self._period = period
        self._looks = 0
        self._missed = 0
        self._reason = ""
        self._answers = False
        self._first: dict[str, Card] = {}
        self._last: dict[str, Card] = {}
        self._looked_at: float | None = None

    @property
    def losses(self) -> tuple[str, ...]:
        silent = f"{self._what} did not answer {self._missed} of {self._looks} polls ({self._reason})"
        lost = [f"{self._what} no longer reported {gpu} at the end" for gpu in self._first if gpu not in self._last]
        failed = [
            f"{gpu} reported an error to its driver (XID {card.xid})"
            for gpu, card in self._last.items()
            if card.xid and card.xid != self._first[gpu].xid
        ]
        return (*([silent] if self._missed else []), *lost, *failed)

    @contextlib.asynccontextmanager
    async def watching(self, read: Read, keep: Keep, now: Now) -> AsyncIterator[None]:
        await self._look(read, keep, now)
        watch = asyncio.create_task(self._watch(read, keep, now))
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        # Cover the time since the last poll. Neither an interrupted load nor one with a silent source waits for this.
        if self._answers:
            await self._look(read, keep, now, _LAST_PATIENCE)

    async def _watch(self, read: Read, keep: Keep, now: Now) -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        while True:
            turn = math.floor((loop.time() - begin) / self._period) + 1
            await asyncio.sleep(begin + turn * self._period - loop.time())
            await self._look(read, keep, now)

    async def _look(self, read: Read, keep: Keep, now: Now, patience: float = PATIENCE) -> None:
        self._looks += 1
        try:
            async with asyncio.timeout(patience):
                cards = {card.gpu: card for card in await read()}
        except (ServerError, TimeoutError) as error:
            self._missed += 1
            self._answers = False
            self._reason = str(error) or "no answer in time"
            self._looked_at = now()
            return
        self._answers = True
        time = now()
        # Since the last poll, answered or not: what happened during a gap is unknown.
        span = 0.0 if self._looked_at is None else time - self._looked_at
        self._looked_at = time
        self._first = {**cards, **self._first}
        self._last = cards
        for card in cards.values():
            keep(GpuSample(self._server, card.gpu, time, span, **card.values))


class _PolledSource(ABC):
    """A source whose cards are read again and again; `period` is real seconds, `what` names it in messages."""

    def __init__(self, server: str, what: str, period: float) -> None:
        self.server = server
        self._poller = Poller(server, what, period)

    @property
    def losses(self) -> tuple[str, ...]:
        return self._poller.losses

    @contextlib.asynccontextmanager
    async def watching(self, keep: Keep, now: Now) -> AsyncIterator[None]:
        async with self._reading() as read, self._poller.watching(read, keep, now):
            yield

    async def cards(self) -> Sequence[Card]:
        """Read the cards once. Raises: ServerError."""
        async with self._reading() as read:
            return await read()

    @abstractmethod
    def _reading(self) -> contextlib.AbstractAsyncContextManager[Read]:
        """Open what the cards are read from."""


class MetricsSource(_PolledSource):
    """The GPUs of a Prometheus endpoint, or only `gpus`, by UUID or number; `scale` is that of the run's clock."""

    def __init__(self, server: str, endpoint: ServerAddress, gpus: Sequence[str] = (), scale: float = 1.0) -> None:
        self._endpoint = endpoint
        self._gpus = tuple(gpus)
        super().__init__(server, str(self), wall_period(PERIOD, scale))

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncIterator[Read]:
        transport = Transport(self._endpoint, deadline=PATIENCE)

        async def read() -> Sequence[Card]:
            text = redacted((await transport.get_bytes("")).decode("utf-8", "replace"))
            cards = cards_of(parse_metrics(text))
            chosen = [card for card in cards if not self._gpus or card.is_one_of(self._gpus)]
            if len(chosen) > MOST_DEVICES:
                raise NotComfyUI(f"{self} lists {len(chosen)} GPUs, more than {MOST_DEVICES}; name some: #GPU,…")
            return chosen

        try:
            yield read
        finally:
            await transport.aclose()

    def __str__(self) -> str:
        return f"metrics {self._endpoint.url}" + (f"#{','.join(self._gpus)}" if self._gpus else "")


# Seconds of the run's clock between two polls: each takes a little time on the server's event loop.
STATS_PERIOD = 2.0


class SystemStatsSource(_PolledSource):
    """The devices that one server reports in /system_stats; `scale` is that of the run's clock."""

    def __init__(self, address: ServerAddress, scale: float = 1.0) -> None:
        self._address = address
        super().__init__(address.url, f"{address.url}/system_stats", wall_period(STATS_PERIOD, scale))

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncIterator[Read]:
        client = ComfyClient(self._address)

        async def read() -> Sequence[Card]:
            return devices_of(await client.system_stats())

        try:
            yield read
        finally:
            await client.aclose()

    def __str__(self) -> str:
        return "system_stats (memory only)"


class CalledSource(_PolledSource):
    """The GPUs that a function of SOURCES reports; it runs in a thread, and may fail in any way."""

    def __init__(self, server: str, name: str, argument: str, scale: float = 1.0) -> None:
        self._name, self._argument = name, argument
        super().__init__(server, str(self), wall_period(PERIOD, scale))

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncIterator[Read]:
        yield self._read

    async def _read(self) -> Sequence[Card]:
        """Call the function in a thread. Raises: ServerError."""
        try:
            async with asyncio.timeout(PATIENCE):
                return await asyncio.to_thread(lambda: [_read_card(each) for each in self._called()])
        except TimeoutError:
            raise ServerError("no answer in time") from None
        except Exception as error:
            raise ServerError(f"{type(error).__name__}: {error}") from None

    def _called(self) -> Iterable[GpuReading]:
        return SOURCES[self._name](self.server, self._argument)

    def __str__(self) -> str:
        return self._name + (f":{self._argument}" if self._argument else "")


def _read_card(reading: GpuReading) -> Card:
    """Convert a reading to a card. Raises: ValueError, TypeError or AttributeError if it is not a valid reading."""
    told = {name: getattr(reading, name) for name in _MEASURED}
    values = {name: float(value) for name, value in told.items() if value is not None}
    if not all(map(math.isfinite, values.values())):
        raise ValueError(f"{reading} has a value that is not finite")
    return Card(str(reading.gpu), str(reading.gpu), str(reading.name), values)


_MEASURED = [each.name for each in fields(GpuReading) if each.name not in ("gpu", "name")]


def devices_of(stats: SystemStats) -> list[Card]:
    """Return the GPUs that the server works on; none if it works on its CPU."""
    return [_card(device) for device in own_devices(stats.raw) if device.get("type") != "cpu"]


def _card(device: Mapping[str, Any]) -> Card:
    kind, index = str(device.get("type") or "gpu"), device.get("index")
    number = "" if index is None else str(index)
    total, free = finite(device.get("vram_total")), finite(device.get("vram_free"))
    values = {} if total is None or free is None else {"memory_used": total - free, "memory_total": total}
    return Card(f"{kind}:{number}".rstrip(":"), number, str(device.get("name") or kind), values)
