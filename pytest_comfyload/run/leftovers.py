"""What earlier prompts left on the servers.

These are prompts of killed runs and foreign prompts in the queues, and results and models in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
import uuid
from collections import Counter
from collections.abc import Sequence

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.comfy import ComfyClient
from pytest_comfyload.engine.servers import take_out
from pytest_comfyload.errors import ServerError, ServerTimeout, UsageError
from pytest_comfyload.run.background import run_in_background
from pytest_comfyload.run.target import unsocketed

__all__ = ["clear_leftovers", "empty_memory", "refuse_busy", "remove_run", "take_out_run"]

# Real seconds that the removal of a dead run's prompts may take.
REMOVING_TIME = 3.0
# Number of runs that a note names at most.
MOST_NAMED = 5
# Real seconds that an idle server may take for a prompt of two small nodes, and between two polls of it.
EMPTYING_TIME, LOOK = 60.0, 0.02


async def clear_leftovers(servers: Sequence[ServerAddress], *, delete: bool) -> tuple[str, ...]:
    """Return a note for each server that still has prompts of other runs; with `delete`, delete these prompts.

    The caller has locked the servers, so any such run on this machine is over. Raises: ServerError.
    """
    notes = await asyncio.gather(*(_clear(server, delete) for server in servers))
    return tuple(note for note in notes if note)


async def _clear(server: ServerAddress, delete: bool) -> str | None:
    async with unsocketed(server) as client:
        queue = await client.queue()
        if not queue.runs:
            return None
        if delete:
            await take_out(client, list(queue.runs))
    counts = Counter(queue.runs.values())
    what = f"{len(queue.runs)} prompt{'s' * (len(queue.runs) > 1)}"
    named = [f"{run[:80]} ({count})" for run, count in sorted(counts.items())[:MOST_NAMED]]
    whose = ", ".join(named) + (f" and {len(counts) - MOST_NAMED} more" if len(counts) > MOST_NAMED else "")
    if delete:
        return f"{server.url} still held {what} of earlier runs, deleted now: {whose}"
    return f"{server.url} still held {what} of earlier runs: {whose}; --comfyload-delete-leftovers deletes them"


async def refuse_busy(servers: Sequence[ServerAddress], preset: str) -> None:
    """Check that the servers are idle. Raises: UsageError if prompts are queued or running; ServerError."""
    for server in servers:
        async with unsocketed(server) as client:
            queue = await client.queue()
        if count := len(queue.running) + len(queue.pending):
            raise UsageError(
                f"{server.url} is busy: its queue holds {count} prompt{'s' * (count > 1)}, and preset={preset!r} would "
                "delay them; try again when it is idle, or pass --comfyload-allow-busy"
            )


async def empty_memory(servers: Sequence[ServerAddress]) -> None:
    """Make each server drop all cached results and unload its models, and wait until that is done.

    The caller has locked the servers.

    Raises:
        UsageError: Foreign prompts are queued or running, which would have to load their models again.
        ServerError: A server failed.
    """
    await asyncio.gather(*(_empty(server) for server in servers))


async def _empty(server: ServerAddress) -> None:
    async with unsocketed(server) as client:
        queue = await client.queue()
        if count := len(queue.running) + len(queue.pending):
            raise UsageError(
                f"{server.url} is busy: its queue holds {count} foreign prompt{'s' * (count > 1)}, and a comparison of "
                "A and B empties the server's cache and unloads its models before each of its runs; try again when it "
                "is idle, or pass on_foreign='wait'"
            )
        await client.free()
        # A server frees memory between two prompts, so it has done so once another prompt has been executed.
        await _run_to_its_end(client)


async def _run_to_its_end(client: ComfyClient) -> None:
    size = {"width": 8, "height": 8, "batch_size": 1}
    graph = {
        "image": {"class_type": "EmptyImage", "inputs": {**size, "color": secrets.randbelow(1 << 24)}},
        "preview": {"class_type": "PreviewImage", "inputs": {"images": ["image", 0]}},
    }
    pending = client.expect(str(uuid.uuid4()), graph)
    await client.submit(pending, graph)
    deadline = time.monotonic() + EMPTYING_TIME
    while await client.history(pending.state.prompt_id) is None:
        if time.monotonic() > deadline:
            raise ServerTimeout(
                f"{client.address.url} did not execute a prompt of two small nodes in {EMPTYING_TIME:g} s"
            )
        await asyncio.sleep(LOOK)


def remove_run(servers: Sequence[ServerAddress], run_id: str) -> None:
    """Remove a dead run's prompts from the servers, as far as they answer in time."""
    run_in_background(lambda: take_out_run(servers, run_id))


async def take_out_run(servers: Sequence[ServerAddress], run_id: str) -> None:
    """Remove the prompts of a run from the servers, as far as they answer in time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REMOVING_TIME):
            await asyncio.gather(*(_remove_run(server, run_id) for server in servers))


async def _remove_run(server: ServerAddress, run_id: str) -> None:
    with contextlib.suppress(ServerError):
        async with unsocketed(server) as client:
            queue = await client.queue()
            if prompt_ids := [prompt_id for prompt_id, run in queue.runs.items() if run == run_id]:
                await take_out(client, prompt_ids)
