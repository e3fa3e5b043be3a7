"""Runs a plan: opens the users, warms up, walks them through the window, drains, and leaves the server as found.

Every prompt that was intended is reported once, also when the run is cancelled in the middle.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytest_comfyload.client.clock import Clock
from pytest_comfyload.client.comfy import ComfyClient
from pytest_comfyload.engine.loop_lag import LoopLag
from pytest_comfyload.engine.plan import Plan
from pytest_comfyload.engine.server_stats import ServerStats
from pytest_comfyload.engine.user import User
from pytest_comfyload.errors import ServerError
from pytest_comfyload.protocol.server_clock import ServerClock
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.server_usage import UsageSample

__all__ = ["EngineReport", "run_plan"]

# Real seconds that leaving the server clean may take after a cancellation.
CLEANING_TIME = 3.0


@dataclass(slots=True)
class EngineReport:
    """What the engine knows besides outcomes. The window is in seconds of the run's clock, the lag in wall seconds."""

    window: tuple[float, float] = (0.0, 0.0)
    intended: int = 0
    submitted: int = 0
    loop_lag: float = 0.0
    server_usage: tuple[UsageSample, ...] = ()
    silent_ooms: int | None = None


async def run_plan(plan: Plan, clock: Clock, report: Callable[[Outcome], None]) -> EngineReport:
    """Run to the end; `report` gets each outcome as it ends. Raises: ServerError when the users cannot connect."""
    result, lag, stats = EngineReport(), LoopLag(), ServerStats(plan.servers, clock)
    async with contextlib.AsyncExitStack() as stack:
        users = await _open_users(plan, clock, report, stack)
        await stack.enter_async_context(lag.watching())
        try:
            await _warm_up(plan, users, clock)
            async with stats.watching():
                await _walk(plan, users, clock, result)
        finally:
            await _leave_clean(users)
            await asyncio.gather(*(user.settle() for user in users))
            result.loop_lag = lag.p99
            result.server_usage, result.silent_ooms = stats.samples, stats.silent_ooms
    return result


async def _open_users(
    plan: Plan, clock: Clock, report: Callable[[Outcome], None], stack: contextlib.AsyncExitStack
) -> list[User]:
    server_clocks = {server.url: ServerClock(clock.scale) for server in plan.servers}
    users = []
    for index in range(plan.executor.users):
        server = plan.servers[index % len(plan.servers)]
        client = ComfyClient(server, clock, server_clocks[server.url])
        stack.push_async_callback(client.aclose)
        users.append(User(index, client, plan, report))
    opened = await asyncio.gather(*(user.client.open() for user in users), return_exceptions=True)
    for error in opened:
        if error is not None:
            raise error
    return users


async def _warm_up(plan: Plan, users: Sequence[User], clock: Clock) -> None:
    """The first user on each server sends `warmup` prompts there, so that no measured one loads a model."""

    async def warm(user: User) -> None:
        for number in range(plan.warmup, 0, -1):
            await user.run(user.prepare(-number), -number, clock.now())
        # The book-keeping would share the connection with the first measured prompt.
        await user.settle()

    await asyncio.gather(*(warm(user) for user in users[: len(plan.servers)]))


async def _walk(plan: Plan, users: Sequence[User], clock: Clock, result: EngineReport) -> None:
    start = clock.now()
    tasks = [asyncio.create_task(_iterate(plan, user, clock, start, result)) for user in users]
    duration = plan.executor.duration
    try:
        until = None if duration is None else clock.wall(start + duration + plan.drain - clock.now())
        await asyncio.wait(tasks, timeout=until)
    finally:
        result.window = (start, clock.now() if duration is None else start + duration)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    # A task that was cut off by the drain is a censored prompt; any other exception is ours.
    for error in ended:
        if isinstance(error, Exception):
            raise error


async def _iterate(plan: Plan, user: User, clock: Clock, start: float, result: EngineReport) -> None:
    iteration = 0
    previous_end: float | None = None
    while (due := plan.executor.next_start(iteration, previous_end)) is not None:
        prompt = user.prepare(iteration)
        await clock.sleep_until(start + due)
        result.intended += 1
        result.submitted += 1
        previous_end = await user.run(prompt, iteration, start + due) - start
        iteration += 1


async def _leave_clean(users: Sequence[User]) -> None:
    """Take what is left of our prompts out of the servers: one delete each, then the one that runs is interrupted."""
    left: dict[str, tuple[ComfyClient, list[str]]] = {}
    for user in users:
        if user.outstanding:
            _, ids = left.setdefault(user.client.address.url, (user.client, []))
            ids += user.outstanding
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLEANING_TIME):
            await asyncio.gather(*(_remove(client, ids) for client, ids in left.values()))


async def _remove(client: ComfyClient, prompt_ids: Sequence[str]) -> None:
    with contextlib.suppress(ServerError):
        await client.delete_pending(prompt_ids)
        for running in (await client.queue()).running:
            if running in prompt_ids:
                await client.interrupt(running)
