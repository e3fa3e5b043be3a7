"""Events from one WebSocket, dispatched to the prompts of one user, or of all users who share it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from pytest_comfyload.client.clock import Clock
from pytest_comfyload.client.socket import EventSocket
from pytest_comfyload.client.transport import Transport
from pytest_comfyload.errors import Disconnected, ServerError
from pytest_comfyload.protocol.events import Event, FeatureFlags, Preview, Status, UnknownMessage
from pytest_comfyload.protocol.prompt_state import PromptState, Stage

__all__ = ["EventStream", "PendingPrompt"]


class PendingPrompt:
    """A prompt that is being followed: its state, and a way to wait for changes of that state."""

    def __init__(self, state: PromptState) -> None:
        self.state = state
        self._changed = asyncio.Event()
        self._lost: Disconnected | None = None

    def reattach(self) -> None:
        """Forget the loss of the socket, which has been dealt with, so that waiting can continue."""
        self._lost = None

    def notify(self, lost: Disconnected | None = None) -> None:
        self._lost = lost or self._lost
        self._changed.set()

    async def wait_until(self, reached: Callable[[PromptState], bool], seconds: float | None) -> bool:
        """Wait until `reached` returns True, else return False after `seconds` (real time). Raises: Disconnected."""
        if reached(self.state):
            return True
        try:
            async with asyncio.timeout(seconds):
                while not reached(self.state):
                    if self._lost is not None:
                        raise self._lost
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True


class EventStream:
    """A `client_id` with its WebSocket, both of which are replaced after each loss.

    Args:
        patience: Real seconds that opening a socket may take.
    """

    def __init__(self, transport: Transport, clock: Clock, on_queue: Callable[[int], None], patience: float) -> None:
        self.client_id = uuid.uuid4().hex
        self.last_heard = clock.now()
        self.lost: Disconnected | None = None
        self._transport = transport
        self._clock = clock
        self._on_queue = on_queue
        self._patience = patience
        self._socket: EventSocket | None = None
        self._is_open = False
        self._connecting: asyncio.Task[None] | None = None
        self._pending: dict[str, PendingPrompt] = {}
        self._remaining: int | None = None

    async def open(self) -> None:
        """Open the HTTP connection, then the WebSocket, unless they are already open. Raises: ServerError."""
        if not self._is_open:
            await self._once(self._connect)

    async def reopen(self) -> None:
        """If the WebSocket was lost, open another. Raises: ServerError.

        It gets a fresh `client_id`: a server that closes the old socket late would also remove a new one with its id.
        """
        if self.lost is not None or self._is_connecting:
            await self._once(self._replace)

    def distrust(self) -> None:
        """Give up a socket that is open but did not deliver what it should have: the next prompt gets another."""
        self.lost = Disconnected(f"{self._transport.address.url}: the WebSocket no longer delivers anything")

    async def aclose(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._socket is not None:
            await self._socket.aclose()

    # --- prompts ---

    def expect(self, prompt_id: str, graph: Mapping[str, Any]) -> PendingPrompt:
        """Listen for a prompt that is about to be sent: its first events can come before the response to the POST."""
        pending = PendingPrompt(PromptState(prompt_id, {node: each["class_type"] for node, each in graph.items()}))
        self._pending[prompt_id] = pending
        return pending

    @property
    def on_their_way(self) -> list[PromptState]:
        """The prompts whose events are being followed."""
        return [pending.state for pending in self._pending.values()]

    def forget(self, prompt_id: str) -> None:
        self._pending.pop(prompt_id, None)

    # --- the socket ---

    @property
    def _is_connecting(self) -> bool:
        return self._connecting is not None and not self._connecting.done()

    async def _once(self, connect: Callable[[], Any]) -> None:
        """Connect once for all users who request it in the meantime."""
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(connect())
            # The users who requested it may have been cancelled; this retrieves the exception anyway.
            self._connecting.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(self._connecting)

    async def _connect(self) -> None:
        # The first POST must not include the time to connect, and a login page is best detected here.
        await self._transport.get_json("/prompt")
        self._socket = EventSocket(
            self._transport, self.client_id, self._clock, self._on_event, self._on_lost, self._patience
        )
        await self._socket.open()
        self._is_open = True

    async def _replace(self) -> None:
        lost, self.lost = self.lost, None
        self._tell_those_sent(lost)
        if self._socket is not None:
            await self._socket.aclose()
        self.client_id = uuid.uuid4().hex
        try:
            await self._connect()
        except ServerError as error:
            self.lost = Disconnected(str(error))
            raise

    def _tell_those_sent(self, lost: Disconnected | None) -> None:
        """Notify prompts sent with the old socket, whose state must be queried; the others will use the new one."""
        for pending in self._pending.values():
            if Stage.SENT <= pending.state.stage < Stage.INTERRUPTED:
                pending.notify(lost)

    def _on_event(self, event: Event, arrival: float) -> None:
        if self._is_news(event):
            self.last_heard = arrival
        if isinstance(event, Status):
            self._remaining = event.queue_remaining
            self._on_queue(event.queue_remaining)
            return
        pending = self._meant(event)
        if pending is not None:
            pending.state.apply(event, arrival)
            pending.notify()

    def _is_news(self, event: Event) -> bool:
        """Return whether the event shows that the server is working; custom nodes may send their own ones forever."""
        if isinstance(event, Status):
            return event.queue_remaining != self._remaining
        return not isinstance(event, UnknownMessage | FeatureFlags)

    def _meant(self, event: Event) -> PendingPrompt | None:
        """Return the prompt that an event is about; a picture without a prompt id is of the one that started last."""
        prompt_id = getattr(event, "prompt_id", None)
        if isinstance(event, Preview) and prompt_id is None:
            running = (each for each in self._pending.values() if each.state.stage is Stage.RUNNING)
            return max(running, key=lambda each: each.state.started_at or 0.0, default=None)
        return self._pending.get(prompt_id or "")

    def _on_lost(self, error: Disconnected) -> None:
        self.lost = error
        for pending in self._pending.values():
            pending.notify(error)
