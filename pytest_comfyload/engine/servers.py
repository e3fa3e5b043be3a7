"""The servers of a run and the workers behind a balancer: clocks, queues, and the cancellation of prompts.

A snapshot of a queue is shared by all who need one, since a long queue takes megabytes to transfer.
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
from pytest_comfyload.errors import ServerError, UsageError, WorkerDead
from pytest_comfyload.protocol.bodies import HistoryEntry, PromptAnswer, QueueSnapshot
from pytest_comfyload.protocol.server_clock import ServerClock

__all__ = ["Balancer", "Found", "Server", "Workers", "take_out"]

# Real seconds: how long a snapshot of the queue is reused, how long a server may be silent while prompts wait, and for
# how long snapshots must show that none of them runs before its worker is considered dead.
LOOK_SERVES = 1.0
SILENCE = 5.0
IDLE = 2.0


class Server:
    """One server of a run.

    `outstanding` are our prompts that it may still have, and `posting` those that are being sent. If the server is a
    balancer, the `workers` behind it are queried instead.
    """

    def __init__(self, address: ServerAddress, clock: Clock, workers: Workers) -> None:
        self.address = address
        self.workers = workers
        self.server_clock = ServerClock(clock.scale)
        self.outstanding: set[str] = set()
        self.ever_ours: set[str] = set()
        self.posting: set[asyncio.Future[PromptAnswer]] = set()
        self.queue_remaining = 0
        self._heard = clock.now()
        self._clock = clock
        self._lock = asyncio.Lock()
        self._looked = -float("inf")
        self._idle_since: float | None = None
        self._snapshot = QueueSnapshot((), ())

    def submit(self, prompt_id: str) -> None:
        self.outstanding.add(prompt_id)
        self.ever_ours.add(prompt_id)

    async def post(self, posting: Coroutine[Any, Any, PromptAnswer]) -> PromptAnswer:
        """Send a prompt and return the answer.

        A prompt is sent completely even if its user is cancelled, since a partly sent prompt cannot be deleted.
        """
        task = asyncio.ensure_future(posting)
        self.posting.add(task)
        task.add_done_callback(self.posting.discard)
        return await asyncio.shield(task)

    def note_queue(self, remaining: int) -> None:
        """Note the number of running and waiting prompts that a status message of the server reported."""
        self.queue_remaining = remaining
        self._heard = self._clock.now()

    @property
    def silent(self) -> bool:
        """Whether it has prompts of ours but has sent nothing for a long time, so that its worker must be checked."""
        return bool(self.outstanding) and self._clock.wall(self._clock.now() - self._heard) > SILENCE

    @property
    def foreign(self) -> int:
        """Number of foreign prompts, according to the length of the queue that the server reported."""
        return max(0, self.queue_remaining - len(self.outstanding))

    @property
    def load(self) -> int:
        """Number of prompts that a prompt sent now would wait for."""
        return max(self.queue_remaining, len(self.outstanding))

    async def look(self, client: ComfyClient) -> QueueSnapshot:
        """Return a snapshot of the queue that is at most a second old. Raises: ServerError; WorkerDead."""
        async with self._lock:
            if self._real_now() - self._looked >= LOOK_SERVES:
                self._snapshot = await (self.workers.queue() if self.workers else client.queue())
                self._looked = self._real_now()
                self._watch_worker()
        return self._snapshot

    def _watch_worker(self) -> None:
        """Check that prompts are still executed. Raises: WorkerDead.

        A server whose worker thread has died still accepts prompts and answers 200, but never runs them.
        """
        if self._snapshot.running or not self._snapshot.pending:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = self._looked
        elif self._looked - self._idle_since >= IDLE and self.silent:
            waiting = len(self._snapshot.pending)
            raise WorkerDead(
                f"{self.address.url}: the worker is dead: {waiting} prompts wait and nothing runs; restart it"
            )

    def _real_now(self) -> float:
        return self._clock.wall(self._clock.now())


class Balancer:
    """The strategy to choose the server for a user's next prompt: `sticky`, `round_robin` or `least_queue`."""

    def __init__(self, kind: str, servers: Sequence[Server]) -> None:
        if kind not in ("sticky", "round_robin", "least_queue"):
            raise UsageError(f"balance={kind!r}; legal: least_queue, round_robin, sticky")
        self._kind = kind
        self._servers = servers
        self._turn = 0

    def choose(self, user: int) -> int:
        """Return the number of the server for the user's next prompt, and advance the turn."""
        count = len(self._servers)
        if self._kind == "sticky":
            return user % count
        turn, self._turn = self._turn, (self._turn + 1) % count
        if self._kind == "round_robin":
            return turn
        # The turn breaks ties; otherwise the first server would get all prompts while every queue is empty.
        return min(range(count), key=lambda number: (self._servers[number].load, (number - turn) % count))


_T = TypeVar("_T")

# Real seconds that a query to a worker may take.
PATIENCE = 2.0


@dataclass(frozen=True, slots=True)
class Found:
    """The history entry of a prompt at the worker that ran it."""

    url: str
    entry: HistoryEntry


class Workers:
    """All workers of a run, with their `clocks` by URL; false if there are none."""

    def __init__(self, addresses: Sequence[ServerAddress], clock: Clock) -> None:
        self._clients = [ComfyClient(address, clock) for address in addresses]
        self.clocks = {address.url: ServerClock(clock.scale) for address in addresses}

    def __bool__(self) -> bool:
        return bool(self._clients)

    async def aclose(self) -> None:
        await asyncio.gather(*(client.aclose() for client in self._clients))

    async def find(self, prompt_id: str, first: str | None = None) -> Found | None:
        """Return the history entry of a prompt and the worker that has it; the worker at `first` is queried first."""
        likely = [client for client in self._clients if client.address.url == first]
        others = [client for client in self._clients if client.address.url != first]
        return await _find(likely, prompt_id) or await _find(others, prompt_id)

    async def queue(self) -> QueueSnapshot:
        """Return the joint queue of all workers. Raises: ServerError if any does not answer: a part proves nothing."""
        queues = await asyncio.gather(*(client.queue() for client in self._clients))
        return QueueSnapshot(
            tuple(prompt_id for queue in queues for prompt_id in queue.running),
            tuple(prompt_id for queue in queues for prompt_id in queue.pending),
            {prompt_id: run for queue in queues for prompt_id, run in queue.runs.items()},
        )

    async def take_out(self, prompt_ids: Sequence[str]) -> None:
        """Remove prompts from all workers that answer."""
        await asyncio.gather(*(_in_time(take_out(client, prompt_ids)) for client in self._clients))


async def take_out(client: ComfyClient, prompt_ids: Sequence[str]) -> None:
    """Delete waiting prompts, then interrupt those that are running or have started meanwhile. Raises: ServerError."""
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
