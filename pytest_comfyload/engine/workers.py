"""The ComfyUI servers behind a balancer: asked what they hold and told to let go of what is ours, but never measured.

What one of them does not answer in time it does not know: its failure is none of a prompt's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.clock import Clock
from pytest_comfyload.client.comfy import ComfyClient
from pytest_comfyload.errors import ServerError
from pytest_comfyload.protocol.bodies import HistoryEntry, QueueSnapshot
from pytest_comfyload.protocol.server_clock import ServerClock

__all__ = ["Found", "Workers", "take_out"]

_T = TypeVar("_T")

# Real seconds that one question may take.
PATIENCE = 2.0


@dataclass(frozen=True, slots=True)
class Found:
    """What the worker at `url` keeps of a prompt."""

    url: str
    entry: HistoryEntry


class Workers:
    """All workers of a run, with the `clocks` of each by its URL; false where there are none."""

    def __init__(self, addresses: Sequence[ServerAddress], clock: Clock) -> None:
        self._clients = [ComfyClient(address, clock) for address in addresses]
        self.clocks = {address.url: ServerClock(clock.scale) for address in addresses}

    def __bool__(self) -> bool:
        return bool(self._clients)

    async def aclose(self) -> None:
        await asyncio.gather(*(client.aclose() for client in self._clients))

    async def find(self, prompt_id: str, first: str | None = None) -> Found | None:
        """The worker whose history knows the prompt; the one at `first` is asked before the others."""
        likely = [client for client in self._clients if client.address.url == first]
        others = [client for client in self._clients if client.address.url != first]
        return await _find(likely, prompt_id) or await _find(others, prompt_id)

    async def queue(self) -> QueueSnapshot:
        """What they hold together. Raises: ServerError where one does not tell: half of it proves nothing."""
        queues = await asyncio.gather(*(client.queue() for client in self._clients))
        return QueueSnapshot(
            tuple(prompt_id for queue in queues for prompt_id in queue.running),
            tuple(prompt_id for queue in queues for prompt_id in queue.pending),
            {prompt_id: run for queue in queues for prompt_id, run in queue.runs.items()},
        )

    async def take_out(self, prompt_ids: Sequence[str]) -> None:
        """No worker holds these afterwards, as far as it answers."""
        await asyncio.gather(*(_in_time(take_out(client, prompt_ids)) for client in self._clients))


async def take_out(client: ComfyClient, prompt_ids: Sequence[str]) -> None:
    """One delete, then an interrupt of each that runs or has begun to run meanwhile. Raises: ServerError."""
    await client.delete_pending(prompt_ids)
    for running in (await client.queue()).running:
        if running in prompt_ids:
            await client.interrupt(running)


async def _find(clients: Sequence[ComfyClient], prompt_id: str) -> Found | None:
    entries = await asyncio.gather(*(_in_time(client.history(prompt_id)) for client in clients))
    found = (Found(client.address.url, entry) for client, entry in zip(clients, entries, strict=True) if entry)
    return next(found, None)


async def _in_time(asking: Coroutine[Any, Any, _T]) -> _T | None:
    with contextlib.suppress(ServerError, TimeoutError):
        async with asyncio.timeout(PATIENCE):
            return await asking
    return None
