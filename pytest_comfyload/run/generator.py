"""One of several generators of a load, in a process of its own, which sends its share of a plan on command.

`run/distributed` is the other end of the channel. Messages are tuples of a kind and built-in values. The plan comes
pickled, from the process that started this one, and outcomes are sent back as MessagePack.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import signal
import time
from collections.abc import Callable
from typing import Any

import msgspec

from pytest_comfyload.client.clock import Clock
from pytest_comfyload.engine.engine import run_plan
from pytest_comfyload.engine.observers import alongside
from pytest_comfyload.engine.plan import EngineReport, Plan
from pytest_comfyload.engine.progress import LoadProgress
from pytest_comfyload.protocol.server_clock import ClockStep
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.run_facts import Stall
from pytest_comfyload.run.background import run_in_background

__all__ = ["End", "serve"]

# Wall seconds between two batches of outcomes.
BATCH_PERIOD = 0.05


class End(msgspec.Struct):
    """The content of an EngineReport, for the controller.

    `marks` are what is known only at the end, by prompt id: whether the server's timestamps are void, whether the
    generator stalled, and the seconds that it added to the total time.
    """

    intended: int
    dropped: int
    window: tuple[float, float]
    loop_lag: float
    worst_loop_lag: float
    stalls: tuple[Stall, ...]
    clock_steps: dict[str, tuple[ClockStep, ...]]
    aborted: str | None
    invalid: str | None
    marks: dict[str, tuple[bool, bool, float | None]]


def serve(channel: Any) -> None:
    """Run one load until it ends or the controller disappears; `channel` is execnet's."""
    # Ctrl-C reaches all processes of a terminal, but only the controller decides what happens.
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run_in_background(lambda: _serve(channel))
    except Exception as error:
        channel.send(("failed", f"{type(error).__name__}: {error}"))


async def _serve(channel: Any) -> None:
    orders: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
    channel.setcallback(_receiver(channel, orders), endmarker=("stop",))
    channel.send(("here",))
    kind, *content = await orders.get()
    if kind != "plan":
        return
    pickled, scale, origin = content
    plan: Plan = pickle.loads(pickled)
    load = _Load(channel, orders)
    async with alongside(load.flushing()):
        report = await load.run(plan, Clock(scale, origin))
    load.flush()
    channel.send(("end", msgspec.msgpack.encode(_end(report, load.outcomes))))


def _receiver(channel: Any, orders: asyncio.Queue[tuple[Any, ...]]) -> Callable[[tuple[Any, ...]], None]:
    """Return the callback for execnet's thread, which answers pings immediately, even if the event loop is busy."""
    loop = asyncio.get_running_loop()

    def receive(message: tuple[Any, ...]) -> None:
        if message == ("ping",):
            channel.send(("pong", time.perf_counter()))
        else:
            # Once the loop is closed, there is nothing left to stop.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(orders.put_nowait, message)

    return receive


class _Load:
    """The load of this generator. `outcomes` are all outcomes, whether already sent to the controller or not."""

    def __init__(self, channel: Any, orders: asyncio.Queue[tuple[Any, ...]]) -> None:
        self.outcomes: list[Outcome] = []
        self._channel = channel
        self._orders = orders
        self._sent = 0
        self._begin: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def run(self, plan: Plan, clock: Clock) -> EngineReport:
        """Run the plan until it ends or the controller stops it. Raises: ServerError."""
        result = EngineReport()
        running = asyncio.ensure_future(
            run_plan(plan, clock, self.outcomes.append, self._beat, begins=self._begins, result=result)
        )
        async with alongside(self._obey(running)):
            await asyncio.wait([running])
        if not running.cancelled():
            running.result()
        return result

    async def flushing(self) -> None:
        while True:
            await asyncio.sleep(BATCH_PERIOD)
            self.flush()

    def flush(self) -> None:
        batch = self.outcomes[self._sent :]
        if batch:
            self._sent = len(self.outcomes)
            self._channel.send(("outcomes", msgspec.msgpack.encode(batch)))

    async def _begins(self) -> float:
        self._channel.send(("ready",))
        return await self._begin

    async def _obey(self, running: asyncio.Future[EngineReport]) -> None:
        while True:
            match await self._orders.get():
                case ("begin", float(at)) if not self._begin.done():
                    self._begin.set_result(at)
                case ("stop",):
                    running.cancel()

    def _beat(self, progress: LoadProgress) -> None:
        """Report, several times a second, that this process is alive and how many prompts it has sent."""
        self._channel.send(("beat", progress.done + progress.in_flight))


def _end(report: EngineReport, outcomes: list[Outcome]) -> End:
    marked = [(outcome, report.marked(outcome)) for outcome in outcomes]
    marks = {each.prompt_id: (each.void, each.stalled, each.generator_lag) for before, each in marked if each != before}
    return End(
        intended=report.intended,
        dropped=report.dropped,
        window=report.window,
        loop_lag=report.loop_lag,
        worst_loop_lag=report.worst_loop_lag,
        stalls=report.stalls,
        clock_steps=dict(report.clock_steps),
        aborted=report.aborted,
        invalid=report.invalid,
        marks=marks,
    )
