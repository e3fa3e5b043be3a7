"""Execution of a plan: open the users, warm up, run the window, drain, and leave the servers as they were.

Every intended prompt is reported once or counted as dropped, even if the run is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from pytest_comfyload.client.clock import Clock
from pytest_comfyload.client.comfy import ComfyClient
from pytest_comfyload.engine.loop_lag import LoopLag
from pytest_comfyload.engine.observers import ServerStats
from pytest_comfyload.engine.plan import WHOLE, EngineReport, Generators, Plan
from pytest_comfyload.engine.progress import LoadProgress, ProgressReporter, Tally
from pytest_comfyload.engine.scheduler import Scheduler
from pytest_comfyload.engine.servers import Server, Workers, take_out
from pytest_comfyload.engine.supervisor import Supervisor
from pytest_comfyload.engine.user_pool import UserPool, warm_up
from pytest_comfyload.errors import ServerError
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.scenario.scenario import planned_duration

__all__ = ["run_plan"]

# Net number of new objects between two garbage collections of the youngest generation.
RARELY = 70_000
# Real seconds that the clean-up of the servers may take.
CLEANING_TIME = 3.0
# Real seconds from the decision to start until all generators in other processes start at the same moment.
START_AHEAD = 0.5
# Real seconds of the clean-up that are spent on waiting for prompts that are just being sent.
POSTING_TIME = 1.0


async def run_plan(
    plan: Plan,
    clock: Clock,
    report: Callable[[Outcome], None],
    tell: Callable[[LoadProgress], None] = lambda progress: None,
    *,
    begins: Callable[[], Awaitable[float]] | None = None,
    generators: Generators | None = None,
    result: EngineReport | None = None,
) -> EngineReport:
    """Run a plan to its end.

    Args:
        plan: What to run.
        clock: The run's clock.
        report: Called with the outcome of each prompt when it finishes, in the event loop.
        tell: Called regularly with the progress of the run, in the event loop.
        begins: Awaited when the users are ready; returns when the window starts (run's clock). None to start at once.
        generators: Other processes that send the prompts, while this one only warms up and watches.
        result: Filled in and returned. If the run is cancelled, it has what is known by then.

    Raises:
        ServerError: The users cannot connect.
        GeneratorError: The generators cannot start.
    """
    result = EngineReport() if result is None else result
    lag, tally = LoopLag(clock, plan.max_send_lag), Tally()
    stats = ServerStats((plan.workers or plan.servers) if plan.share == WHOLE else (), clock)
    others: list[EngineReport] = []

    def count(outcome: Outcome) -> None:
        tally.add(outcome)
        report(outcome)

    async with contextlib.AsyncExitStack() as stack:
        workers = Workers(plan.workers, clock)
        stack.push_async_callback(workers.aclose)
        servers = [Server(address, clock, workers) for address in plan.servers]
        supervisor = Supervisor(plan, servers, clock, lag, count, elsewhere=generators is not None)
        crew = UserPool(plan, servers, clock, supervisor.report)
        teller = ProgressReporter(plan, servers, crew, clock, tally, tell)
        stack.push_async_callback(crew.aclose)
        await (crew.open() if generators is None else generators.open(plan, clock))
        await stack.enter_async_context(lag.watching())
        await stack.enter_async_context(supervisor.watching(crew.inspector))
        await stack.enter_async_context(teller.telling())
        try:
            await warm_up(plan, crew, servers, clock)
            result.window = (clock.now(), clock.now())
            if supervisor.may_start():
                async with stats.watching():
                    with _rare_garbage_collection():
                        if generators is None:
                            begin = clock.now() if begins is None else await begins()
                            await _walk(plan, crew, clock, supervisor, teller, result, begin)
                        else:
                            others += await _walk_elsewhere(plan, crew, clock, supervisor, teller, result, generators)
        except asyncio.CancelledError:
            crew.cut_short()
            raise
        finally:
            await _leave_clean(servers, crew.inspector)
            await crew.settle()
            result.loop_lag, result.worst_loop_lag, result.stalls = lag.p99, lag.worst, tuple(lag.stalls)
            supervisor.conclude(result)
            result.server_usage, result.silent_ooms = stats.samples, stats.silent_ooms
            if others:
                result.add(others)
    return result


@contextlib.contextmanager
def _rare_garbage_collection() -> Iterator[None]:
    """Exempt existing objects from garbage collection, and collect new ones a hundred times less often.

    A collection blocks the event loop while it examines all objects of the process. A load creates little garbage that
    reference counting does not free, but a long load does create some.
    """
    usual, frozen = gc.get_threshold(), gc.get_freeze_count()
    gc.freeze()
    gc.set_threshold(RARELY, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        if not frozen:
            gc.unfreeze()


async def _walk(
    plan: Plan,
    crew: UserPool,
    clock: Clock,
    supervisor: Supervisor,
    teller: ProgressReporter,
    result: EngineReport,
    begin: float,
) -> None:
    supervisor.window_begins(begin)
    walk = Scheduler(crew, clock, plan.seed, begin, plan.share)
    teller.window_begins(walk)
    duration = planned_duration(plan.groups)
    planned = None if duration is None else begin + duration
    tasks = [asyncio.ensure_future(walk.through(group)) for group in plan.groups]
    stop = asyncio.ensure_future(supervisor.stopped())
    try:
        until = None if planned is None else clock.wall(planned + plan.drain - clock.now())
        await _all_done_or(tasks, stop, until)
    finally:
        result.intended, result.dropped = walk.intended, walk.dropped
        result.window = (begin, clock.now() if planned is None else min(planned, max(begin, clock.now())))
        for task in (*tasks, stop):
            task.cancel()
        ended = await asyncio.gather(*tasks, stop, return_exceptions=True)
    # A cancelled walk has reported its prompts as censored; any other exception is a real error.
    for error in ended:
        if isinstance(error, Exception):
            raise error


async def _walk_elsewhere(
    plan: Plan,
    crew: UserPool,
    clock: Clock,
    supervisor: Supervisor,
    teller: ProgressReporter,
    result: EngineReport,
    generators: Generators,
) -> Sequence[EngineReport]:
    """Let the generators run the window until they have finished or the run is stopped."""
    begin = clock.now() + START_AHEAD * clock.scale
    supervisor.window_begins(begin)
    teller.window_begins(Scheduler(crew, clock, plan.seed, begin))
    walking = asyncio.ensure_future(generators.run(begin, supervisor.report))
    stop = asyncio.ensure_future(supervisor.stopped())
    try:
        await asyncio.wait([walking, stop], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.cancel()
        generators.stop()
        # Even if cancelled, wait for their last messages, which have the final measurements; they must end soon.
        await asyncio.wait([walking])
        duration = planned_duration(plan.groups)
        result.window = (begin, max(begin, clock.now() if duration is None else min(begin + duration, clock.now())))
    return walking.result()


async def _all_done_or(tasks: Sequence[asyncio.Future[None]], stop: asyncio.Future[Any], seconds: float | None) -> None:
    everything = asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.wait([everything, stop], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    if not everything.done():
        everything.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await everything


async def _leave_clean(servers: Sequence[Server], inspector: Callable[[Server], ComfyClient]) -> None:
    """Remove our remaining prompts from the servers: one delete request for each, then interrupt what is running."""
    left = [server for server in servers if server.outstanding]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLEANING_TIME):
            await asyncio.gather(*(_remove(inspector(server), server) for server in left))


async def _remove(client: ComfyClient, server: Server) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(POSTING_TIME):
            # A prompt that arrives after the delete request would stay.
            await asyncio.gather(*server.posting, return_exceptions=True)
    prompt_ids = sorted(server.outstanding)
    await asyncio.gather(_take_out(client, prompt_ids), server.workers.take_out(prompt_ids))


async def _take_out(client: ComfyClient, prompt_ids: Sequence[str]) -> None:
    with contextlib.suppress(ServerError):
        await take_out(client, prompt_ids)
