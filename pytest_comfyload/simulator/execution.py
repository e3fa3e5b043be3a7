"""Execution of one prompt after another in virtual time, with events in the order in which ComfyUI sends them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from pytest_comfyload.simulator.events import Hub
from pytest_comfyload.simulator.machine import SimulatedMachine
from pytest_comfyload.simulator.prompt_run import PromptRun
from pytest_comfyload.simulator.queue import PromptHistory, PromptQueue, QueuedPrompt
from pytest_comfyload.simulator.virtual_clock import VirtualClock

__all__ = ["Worker"]


class Worker:
    """The only worker of a server.

    A prompt starts when it is accepted or one of `gaps` (seconds, drawn at random) after the end of the previous
    prompt, whichever is later.
    """

    def __init__(
        self,
        machine: SimulatedMachine,
        clock: VirtualClock,
        queue: PromptQueue,
        history: PromptHistory,
        hub: Hub,
        previews: bool,
        gaps: Sequence[float] = (),
        seed: int = 0,
    ) -> None:
        self._machine = machine
        self._clock = clock
        self._queue = queue
        self._history = history
        self._hub = hub
        self._previews = previews
        self._gaps = gaps or (0.0,)
        self._rng = random.Random(f"{seed} gaps")
        self._free_at = 0.0
        self._unload = self._forget = False
        self._arrival = asyncio.Event()
        self._run: PromptRun | None = None

    def submit(self, item: QueuedPrompt) -> None:
        self._queue.put(item)
        self._arrival.set()

    def interrupt(self, prompt_id: str | None) -> None:
        """Stop the running prompt at its next step if it has this id; None stops any prompt."""
        if self._run and prompt_id in (None, self._run.item.prompt_id):
            self._run.interrupted_at = self._clock.now()

    def free(self, unload_models: bool, free_memory: bool) -> None:
        """Empty the VRAM and, with `free_memory`, the node cache; deferred until the running prompt has finished."""
        self._unload |= unload_models or free_memory
        self._forget |= free_memory
        if self._run is None:
            self._apply_free()

    def current_node(self, client_id: str) -> str | None:
        """Return the node that runs for this client, which is reported to a client that reconnects."""
        run = self._run
        return run.current_node if run and run.item.client_id == client_id else None

    async def work(self) -> None:
        """Execute queued prompts until cancelled; as in ComfyUI, a queue that cannot be sorted ends the worker."""
        while True:
            await self._clock.until(self._free_at)
            try:
                item = self._queue.take()
            except TypeError as error:
                self._machine.log.write(f"Exception in thread Thread-1 (prompt_worker):\nTypeError: {error}\n")
                return
            if item is None:
                self._arrival.clear()
                await self._arrival.wait()
                continue
            await self._execute(item)

    async def _execute(self, item: QueuedPrompt) -> None:
        start = max(self._free_at, item.accepted)
        run = self._run = self._begin(item, start)
        self._machine.begin(start)
        succeeded = await run.execute()
        self._free_at = run.time + self._rng.choice(self._gaps)
        self._run = None
        self._machine.rest(run.time)
        await self._finish(run, succeeded)
        self._machine.log.write(f"Prompt executed in {run.time - start:.2f} seconds\n")
        self._apply_free()

    def _begin(self, item: QueuedPrompt, start: float) -> PromptRun:
        return PromptRun(item, start, self._machine, self._clock, self._hub, self._previews)

    async def _finish(self, run: PromptRun, succeeded: bool) -> None:
        self._history.add(run.item, succeeded, run.outputs, run.meta, run.messages)
        self._queue.finish()
        run.tell_end()

    def _apply_free(self) -> None:
        if self._unload:
            self._machine.vram.clear()
        if self._forget:
            self._machine.cache.clear()
        self._unload = self._forget = False
