"""Tracking of one prompt to its end, by the events of its socket or, if these fail, by history and queue.

A socket can close, fall silent, or lose an event; a server can restart, and a prompt can vanish from its queue without
notice. In every case tracking ends, either when the prompt is over or with an error that says why it never will be.
"""

from __future__ import annotations

import asyncio
import contextlib

from pytest_comfyload.client.comfy import ComfyClient
from pytest_comfyload.client.event_stream import PendingPrompt
from pytest_comfyload.engine.servers import Server
from pytest_comfyload.errors import Disconnected, PromptLost, ServerError, ServerTimeout, WorkerDead
from pytest_comfyload.protocol.prompt_state import PromptState, Stage

__all__ = ["CLOSING_TIME", "PromptTracker", "read_history"]

# All in real seconds. Time without an event after which a prompt is looked up; it doubles up to the longest.
QUIET = 5.0
LONGEST_QUIET = 30.0
# Polling interval for a prompt whose events go to a socket that no longer exists.
POLL = 0.5
# How long a server may be unreachable before its prompts are given up.
RECONNECT_PATIENCE = 30.0
RECONNECT_PAUSE = 0.5
# How long the server may take to write its history after the last event.
CLOSING_TIME = 2.0


class PromptTracker:
    """The tracker of one prompt. Times are seconds of the run's clock."""

    def __init__(
        self, client: ComfyClient, server: Server, pending: PendingPrompt, timeout: float, queue_timeout: float | None
    ) -> None:
        self._client = client
        self._server = server
        self._pending = pending
        self._timeout = timeout
        self._queue_timeout = queue_timeout
        self._sent = client.clock.now()
        self._asked = self._sent
        self._quiet = QUIET
        self._orphaned = False
        self._missing = 0

    async def follow(self) -> None:
        """Track the prompt until it is over. Raises: ServerTimeout, PromptLost, Disconnected, WorkerDead."""
        state, clock = self._pending.state, self._client.clock
        while not state.stage.over:
            deadline = self._deadline(state)
            if clock.now() >= deadline:
                await self._last_look()
                continue
            try:
                await self._news(min(deadline, self._next_question(state)))
            except Disconnected as error:
                await self._reconnect(error)
            if not state.stage.over and (state.closed or clock.now() >= self._next_question(state)):
                await self._ask(clock.wall(max(0.0, self._deadline(state) - clock.now())))
        if state.stage is Stage.SUCCEEDED and not state.outputs:
            # The outputs of a cached prompt may not be sent over the socket. The history has them once it is closed.
            await self._pending.wait_until(lambda state: state.closed, CLOSING_TIME)
            await read_history(self._client, self._server, state)

    async def _news(self, until: float) -> None:
        """Wait until the prompt is over, has started to run (which changes its deadline), or the time `until`."""
        clock, running = self._client.clock, self._pending.state.stage >= Stage.RUNNING

        def changed(state: PromptState) -> bool:
            return state.stage.over or state.closed or (not running and state.stage >= Stage.RUNNING)

        await self._pending.wait_until(changed, clock.wall(max(0.0, until - clock.now())))

    def _deadline(self, state: PromptState) -> float:
        """Return when the prompt is to be given up.

        While it is executing, that is `timeout` after its start. While it is waiting, it is its own limit, or `timeout`
        after the last message of the server: a working server sends each change of its queue to every socket, so that
        silence means that nothing runs.
        """
        if state.started_at is not None:
            return state.started_at + self._timeout
        silence = max(self._sent, self._client.last_heard) + self._timeout
        return silence if self._queue_timeout is None else min(silence, self._sent + self._queue_timeout)

    def _next_question(self, state: PromptState) -> float:
        scale = self._client.clock.scale
        if self._orphaned:
            return self._asked + POLL * scale
        heard = self._client.last_heard if state.started_at is None else state.last_event_at
        return max(self._asked, heard or self._sent) + self._quiet * scale

    async def _ask(self, seconds: float) -> None:
        """Look for the prompt in history and queue, for at most `seconds` of real time.

        Raises: PromptLost, WorkerDead.
        """
        state, clock = self._pending.state, self._client.clock
        self._quiet = min(2 * self._quiet, LONGEST_QUIET)
        try:
            async with asyncio.timeout(seconds):
                await self._look_for_it(state)
        except (PromptLost, WorkerDead):
            raise
        except (ServerError, TimeoutError):
            # The server may be restarting, for which the tracker waits until the deadline.
            pass
        self._asked = clock.now()

    async def _look_for_it(self, state: PromptState) -> None:
        if await read_history(self._client, self._server, state) and state.stage.over:
            # The prompt was over, but the socket had not reported it.
            self._client.distrust_socket()
            return
        queue = await self._server.look(self._client)
        if state.prompt_id in queue.running:
            state.see_running(self._client.clock.now())
        if state.prompt_id in (*queue.running, *queue.pending):
            self._missing = 0
            return
        # A prompt that moves from queue to history is briefly in neither, and is lost only if that persists.
        self._missing += 1
        self._quiet = POLL
        if self._missing > 3:
            raise PromptLost("the prompt is in neither queue nor history: the server restarted, or it was deleted")

    async def _reconnect(self, lost: Disconnected) -> None:
        """Open another socket. The prompt's events still go to the old one, so from now on the prompt is polled.

        Raises: Disconnected.
        """
        self._orphaned = True
        self._pending.reattach()
        loop = asyncio.get_running_loop()
        patience = loop.time() + RECONNECT_PATIENCE
        while True:
            try:
                await self._client.reopen()
                return
            except ServerError:
                if loop.time() >= patience:
                    raise lost from None
                await asyncio.sleep(RECONNECT_PAUSE)

    async def _last_look(self) -> None:
        """Read the history before giving up, as it may have a start or an end that the socket never reported.

        Raises: ServerTimeout.
        """
        state, now = self._pending.state, self._client.clock.now()
        with contextlib.suppress(ServerError, TimeoutError):
            async with asyncio.timeout(CLOSING_TIME):
                await read_history(self._client, self._server, state)
        if state.started_at is not None:
            now = self._client.clock.now()
        if not state.stage.over and now >= self._deadline(state):
            raise ServerTimeout(self._given_up(state, now))

    def _given_up(self, state: PromptState, now: float) -> str:
        """Return what the prompt did for too long, and the argument of the scenario that sets this limit."""
        if state.started_at is not None:
            what, waited, limit = "was executing", now - state.started_at, f"timeout='{self._timeout:g}s'"
        elif self._queue_timeout is not None and now >= self._sent + self._queue_timeout:
            what, waited, limit = "waited in the queue", now - self._sent, f"queue_timeout='{self._queue_timeout:g}s'"
        else:
            what, waited = "waited in the queue", now - self._sent
            limit = f"timeout='{self._timeout:g}s' without any message from the server"
        return f"the prompt {what} for {waited:.0f} s and was given up: {limit}"


async def read_history(client: ComfyClient, server: Server, state: PromptState) -> bool:
    """Apply the history of the server or of a worker to the state, and return whether it knows the prompt.

    Raises: ServerError.
    """
    entry = await client.history(state.prompt_id)
    if entry is None:
        # A balancer may have forwarded the request to a worker other than the one that ran the prompt.
        found = await server.workers.find(state.prompt_id)
        if found is None:
            return False
        entry = found.entry
    state.apply_history(entry, client.clock.now())
    return True
