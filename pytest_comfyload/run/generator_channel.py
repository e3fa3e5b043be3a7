"""One of several generators as the controller sees it: its channel, its clock, and what it has sent so far."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pytest_comfyload.client.clock import Clock
from pytest_comfyload.engine.plan import Plan
from pytest_comfyload.errors import GeneratorError
from pytest_comfyload.metrics.intervals import percentile
from pytest_comfyload.metrics.units import format_value
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.run_facts import GeneratorFacts
from pytest_comfyload.text import harmless

__all__ = ["CLOCK_PERIOD", "REMOTE", "STOP_TIME", "GeneratorChannel", "GeneratorLost"]

# Seconds to wait for a generator's answers before the load, while it imports its package and connects its users.
HELLO_TIME = 30.0
OPEN_TIME = 60.0
# Length of a period in seconds, and the number of silent periods after which a generator is lost.
PERIOD = 1.0
SILENT_PERIODS = 5
# Seconds that a generator has to end after the order to stop.
STOP_TIME = 4.0
# Round trips per measurement of a clock's offset, and seconds between two measurements.
ROUND_TRIPS = 20
CLOCK_PERIOD = 60.0
# Versions are exchanged first, since a generator of another version may behave in any way.
REMOTE = """
import sys
python = "%d.%d" % sys.version_info[:2]
try:
    from importlib.metadata import version
    found = version("pytest-comfyload")
except ImportError:
    found = None
channel.send(("hello", python, found))
if channel.receive():
    from pytest_comfyload.run.generator import serve
    serve(channel)
"""


def installed() -> str:
    return importlib.metadata.version("pytest-comfyload")


class GeneratorLost(Exception):
    """A generator that will send nothing more."""


@dataclass(slots=True)
class GeneratorChannel:
    """The channel to one generator.

    `submitted` is the number of prompts that it has sent, and `done` the number of outcomes that it has reported.
    `offsets` are the times at which its clock was measured, and the seconds by which it was ahead of this process's.
    `round_trip` is the shortest round trip in seconds.
    """

    name: str
    channel: Any
    submitted: int = 0
    done: int = 0
    send_lags: list[float] = field(default_factory=list)
    offsets: list[tuple[float, float]] = field(default_factory=list)
    round_trip: float = float("inf")
    lost: str | None = None
    ended: bool = False
    _inbox: asyncio.Queue[tuple[Any, ...]] = field(default_factory=asyncio.Queue)
    _pongs: asyncio.Queue[tuple[float, float]] = field(default_factory=asyncio.Queue)

    def __post_init__(self) -> None:
        loop = asyncio.get_running_loop()

        def receive(message: tuple[Any, ...]) -> None:
            # Runs in execnet's thread, which an exception would terminate.
            arrived = time.perf_counter()
            with contextlib.suppress(RuntimeError):
                match message:
                    case ("pong", float(told)):
                        loop.call_soon_threadsafe(self._pongs.put_nowait, (arrived, told))
                    case _:
                        loop.call_soon_threadsafe(self._inbox.put_nowait, message)

        self.channel.setcallback(receive, endmarker=("gone",))

    def send(self, *message: object) -> None:
        """Send a message. Raises: GeneratorLost."""
        try:
            self.channel.send(message)
        except (OSError, EOFError):
            raise GeneratorLost("its process has ended") from None

    async def answer(self, *kinds: str, seconds: float) -> tuple[Any, ...]:
        """Wait for a message of one of these kinds before the load. Raises: GeneratorError."""
        try:
            async with asyncio.timeout(seconds):
                message = await self._inbox.get()
                while message[0] not in (*kinds, "failed", "gone"):
                    message = await self._inbox.get()
        except TimeoutError:
            raise GeneratorError(f"{self.name} did not answer within {format_value(seconds, 's')}") from None
        if message[0] == "failed":
            raise GeneratorError(f"{self.name}: {harmless(str(message[1]), 500)}")
        if message[0] == "gone":
            raise GeneratorError(f"{self.name} has ended before the load{self.last_words()}")
        return message

    def last_words(self) -> str:
        """Return the error with which its process ended, if any, for a message."""
        try:
            self.channel.waitclose(0)
        except Exception as error:
            lines = str(error).strip().splitlines()
            return f": {harmless(lines[-1], 300)}" if lines and not isinstance(error, EOFError) else ""
        return ""

    async def greet(self) -> None:
        """Check that the generator has the same versions of this package and Python. Raises: GeneratorError."""
        here, ours = "{}.{}".format(*sys.version_info[:2]), installed()
        _, python, version = await self.answer("hello", seconds=HELLO_TIME)
        if version is None:
            raise GeneratorError(f"{self.name}: its Python {python} has no pytest-comfyload; install {ours} there")
        if (python, version) != (here, ours):
            raise GeneratorError(
                f"{self.name} has pytest-comfyload {version} on Python {python}, and this process {ours} on "
                f"{here}; install the same"
            )
        with self._before_the_load():
            self.send("serve")
        await self.answer("here", seconds=HELLO_TIME)

    @contextlib.contextmanager
    def _before_the_load(self) -> Iterator[None]:
        """Turn the loss of the generator into a GeneratorError. Raises: GeneratorError."""
        try:
            yield
        except GeneratorLost as lost:
            raise GeneratorError(f"{self.name}: {lost}{self.last_words()}") from None

    async def open(self, plan: Plan, clock: Clock) -> None:
        """Hand over the plan, and wait until its users are ready. Raises: GeneratorError."""
        with self._before_the_load():
            await self.set_clock()
            (_, offset), *_ = self.offsets
            # In a thread, since a plan may be larger than a pipe's buffer.
            await asyncio.to_thread(self.send, "plan", pickle.dumps(plan), clock.scale, clock.origin + offset)
        await self.answer("ready", seconds=OPEN_TIME)

    async def set_clock(self) -> None:
        """Measure how far the generator's clock is ahead. Raises: GeneratorLost."""
        best = (float("inf"), 0.0)
        for _ in range(ROUND_TRIPS):
            sent = time.perf_counter()
            self.send("ping")
            try:
                async with asyncio.timeout(PERIOD * SILENT_PERIODS):
                    arrived, told = await self._pongs.get()
            except TimeoutError:
                raise GeneratorLost(f"it did not answer within {PERIOD * SILENT_PERIODS:g} s") from None
            best = min(best, (arrived - sent, told - (sent + arrived) / 2))
        self.round_trip = min(self.round_trip, best[0])
        self.offsets.append((time.perf_counter(), best[1]))

    def shift(self, outcome: Outcome, clock: Clock) -> Outcome:
        """Return the outcome in times of the run's clock, corrected for the drift of the generator's clock."""
        (began, first), (last, latest) = self.offsets[0], self.offsets[-1]
        if last - began < CLOCK_PERIOD / 2:
            return outcome
        drift = (latest - first) / (last - began)
        at = clock.origin + outcome.intended / clock.scale
        return outcome.shifted(-drift * (at - began) * clock.scale)

    async def next(self, deadline: Callable[[], float]) -> tuple[Any, ...]:
        """Wait for a message; `deadline` returns a time of perf_counter.

        Raises: GeneratorLost if the generator has ended or is silent, or at the deadline.
        """
        silent = 0
        while silent < SILENT_PERIODS:
            if time.perf_counter() > deadline():
                raise GeneratorLost(f"it did not end within {STOP_TIME:g} s of being told to")
            # Waits one period at a time, so that a long stall of this whole machine counts as one silent period.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PERIOD):
                    message = await self._inbox.get()
                if message[0] == "gone":
                    raise GeneratorLost(f"its process has ended{self.last_words()}")
                if message[0] == "failed":
                    raise GeneratorLost(harmless(str(message[1]), 500))
                return message
            silent += 1
        raise GeneratorLost(f"it sent nothing for {SILENT_PERIODS * PERIOD:g} s")

    @property
    def facts(self) -> GeneratorFacts:
        lag = percentile(self.send_lags, 99) if self.send_lags else None
        return GeneratorFacts(self.name, max(self.submitted, self.done), self.done, lag, self.round_trip, self.lost)
