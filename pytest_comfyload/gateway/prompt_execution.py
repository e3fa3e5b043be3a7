"""Execution of one prompt on its worker, regardless of what happens to the worker meanwhile.

When the gateway has lost track of a prompt, it queries the worker first. A prompt is returned to the queue only if the
worker does not know it, does not answer or makes no progress, and only once: after two tries it ends with `WorkerLost`.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable

from pytest_comfyload.errors import ComfyloadError, HttpError, ServerError, WorkerDead
from pytest_comfyload.gateway.prompt_attempt import PromptAttempt
from pytest_comfyload.gateway.prompt_store import PromptStore, TakenPrompt
from pytest_comfyload.gateway.rewriting import gateway_time
from pytest_comfyload.gateway.worker_link import WorkerLink
from pytest_comfyload.protocol.bodies import parse_rejection, refused_inputs
from pytest_comfyload.protocol.json_values import as_dict

__all__ = ["GRACE", "PromptExecution", "UploadMissing"]

# Seconds to wait for a worker that does not answer.
GRACE = 20.0
# Seconds without a message after which the worker's history is queried.
QUIET = 2.0
# Seconds for which a prompt may be pending on a worker that executes nothing.
STUCK = 10.0
# Seconds between two renewals of a prompt's lease.
RENEWED = 1.0
TRIES = 2


class UploadMissing(ComfyloadError):
    """An upload that a prompt reads cannot be fetched from any worker."""


class PromptExecution:
    """Execution of one prompt on one worker.

    Args:
        stall: Seconds without an event after which the prompt is given up.
        connect: Opens the worker's WebSocket under a client id.
        copy_inputs: Copies the uploads that the prompt reads to the worker if it lacks them or, with the flag set, if
            it has lost them; returns whether any was copied. Raises: UploadMissing, ServerError, StoreUnavailable.
    """

    def __init__(
        self,
        link: WorkerLink,
        store: PromptStore,
        attempt: PromptAttempt,
        stall: float,
        connect: Callable[[str], Awaitable[None]],
        copy_inputs: Callable[[WorkerLink, TakenPrompt, bool], Awaitable[bool]],
    ) -> None:
        self._link = link
        self._store = store
        self._attempt = attempt
        self._prompt = attempt.prompt
        self._stall = stall
        self._connect = connect
        self._copy_inputs = copy_inputs
        self._taken_at = self._sound_at = time.monotonic()
        self._is_sent = attempt.prompt.found
        self.is_suspicious = False

    async def run(self) -> None:
        """Execute the prompt to its end, or return it to the queue. Raises: ServerError, StoreUnavailable."""
        if self._prompt.found:
            # The worker sends the messages to the client id with which the prompt was sent: reconnect under that id.
            await self._link.close_socket()
        while True:
            try:
                if not self._link.is_open:
                    await self._connect(self._prompt.link or uuid.uuid4().hex)
                if not await (self._find() if self._is_sent else self._post()):
                    return
                self._sound_at = time.monotonic()
                await self._follow()
                return
            except WorkerDead:
                raise
            except ServerError:
                if time.monotonic() - self._sound_at > GRACE:
                    await self.give_up("its worker does not answer", suspicion=True)
                    raise
                await asyncio.sleep(0.2)

    async def give_up(self, why: str, *, suspicion: bool = False) -> None:
        """Return the prompt to the queue, or end it if it is cancelled or has been tried `TRIES` times.

        `suspicion`: the worker may still execute it. Raises: StoreUnavailable.
        """
        prompt, token = self._prompt, self._attempt.token
        state = await self._store.renew(prompt.id, token, self._stall)
        if state == "cancelled":
            await self._attempt.fail("Interrupted", "")
        elif state == "ok" and prompt.attempt >= TRIES:
            tries = f"it was tried {prompt.attempt} times"
            await self._attempt.fail("WorkerLost", f"{why} (worker {self._link.name}); {tries}")
        elif state == "ok":
            await self._store.give_back(prompt.id, token, suspicion=suspicion)
            self.is_suspicious = suspicion

    async def _post(self) -> bool:
        """Send the prompt, and return whether the worker has accepted it. Raises: ServerError, StoreUnavailable."""
        try:
            await self._copy_inputs(self._link, self._prompt, False)
            if self._prompt.attempt > 1:
                # The history entry of an earlier try, such as an interruption, is not the result of this one.
                await self._link.forget(self._prompt.id)
            if await self._is_taken():
                return False
            self._is_sent, self._attempt.sent = True, gateway_time(self._attempt.scale)
            status, answer = await self._link.post_json("/prompt", self._body())
            if status == 400 and await self._copy_inputs(self._link, self._prompt, True):
                status, answer = await self._link.post_json("/prompt", self._body())
        except UploadMissing as error:
            await self.give_up(str(error))
            return False
        if status == 200:
            return True
        if status not in (400, 413):
            # The worker is at fault, not the prompt.
            raise HttpError(f"{self._link.title}: POST /prompt answered {status}", status)
        rejection = parse_rejection(answer)
        words = rejection.sentence() if rejection else f"POST /prompt answered {status}"
        node = next((id for id, _, _ in refused_inputs(rejection.node_errors)), "") if rejection else ""
        class_type = as_dict(as_dict(self._prompt.body.get("prompt")).get(node)).get("class_type")
        await self._attempt.fail("PromptRejected", words, (node, str(class_type or "")))
        return False

    async def _is_taken(self) -> bool:
        """Return whether another gateway took the prompt while this one stalled. Raises: StoreUnavailable."""
        if time.monotonic() - self._taken_at < RENEWED:
            return False
        state = await self._store.renew(self._prompt.id, self._attempt.token, self._stall)
        self._taken_at = time.monotonic()
        return state == "stale"

    def _body(self) -> dict[str, object]:
        # Never `number` or `front`: two prompts with the same number can kill the worker's execution thread.
        targets = self._prompt.body.get("targets")
        return {
            "prompt": self._prompt.body.get("prompt"),
            "prompt_id": self._prompt.id,
            "client_id": self._link.client_id,
            "extra_data": self._prompt.body.get("extra_data") or {},
            **({} if targets is None else {"partial_execution_targets": targets}),
        }

    async def _find(self) -> str:
        """Look for the prompt on the worker; if it has ended, store its result, and if it is unknown, give it up.

        Returns:
            Its place in the worker's queue, as `WorkerLink.place_of` returns it; empty if it is not in the queue.

        Raises: ServerError, StoreUnavailable.
        """
        for _ in range(2):  # it may end between the two requests
            if (entry := await self._link.history(self._prompt.id)) is not None:
                await self._attempt.finish(entry)
                return ""
            if place := await self._link.place_of(self._prompt.id):
                return place
        await self.give_up("its worker no longer knows it")
        return ""

    async def _follow(self) -> None:
        """Pass the worker's messages on until the prompt has ended, or another gateway has taken it.

        Raises: ServerError, StoreUnavailable.
        """
        renewed_at = time.monotonic()
        while True:
            frames = await self._link.next_frames(QUIET)
            self._sound_at = time.monotonic() if frames else self._sound_at
            # Renew first, since this gateway may have stalled: messages that another one has sent are not sent again.
            if time.monotonic() - renewed_at > RENEWED:
                renewed_at = time.monotonic()
                if not await self._renew():
                    return
            await self._attempt.hear(frames)
            if self._attempt.is_over:
                await self._take_result()
                return
            if not frames and not await self._is_still_there():
                return

    async def _is_still_there(self) -> bool:
        """Return whether the worker still has the prompt, after a silence.

        Raises: ServerError, StoreUnavailable; WorkerDead if the worker executes nothing.
        """
        place = await self._find()
        self._sound_at = time.monotonic()
        if not place:
            # The end was not reported: this WebSocket no longer delivers messages.
            await self._link.open(uuid.uuid4().hex)
            return False
        silence = time.monotonic() - self._attempt.progress_at
        if place == "stuck" and silence > STUCK:
            await self._link.drop(self._prompt.id)
            await self.give_up("its worker executes nothing")
            raise WorkerDead(f"{self._link.title}: prompts wait, and none is executed")
        if silence > self._stall:
            await self._link.drop(self._prompt.id)
            await self.give_up(f"it showed no progress for {self._stall:g} s", suspicion=True)
            return False
        return True

    async def _renew(self) -> bool:
        """Renew the lease from the last progress; return False if another gateway has the prompt, or it has ended.

        Raises: ServerError, StoreUnavailable.
        """
        lease = self._stall - (time.monotonic() - self._attempt.progress_at)
        state = await self._store.renew(self._prompt.id, self._attempt.token, lease)
        if state == "cancelled":
            await self._link.interrupt(self._prompt.id)
        if state != "stale":
            return True
        now, worker = await self._store.place_of(self._prompt.id)
        if now == "waiting":
            return True  # Redis crashed and lost the record that it was taken; the result will count
        if now == "ended" or worker != self._link.name:
            await self._link.drop(self._prompt.id)
        return False

    async def _take_result(self) -> None:
        """End the prompt with the result from the worker's history. Raises: ServerError, StoreUnavailable."""
        for pause in (0.0, 0.02, 0.1, 0.3):
            await asyncio.sleep(pause)
            if (entry := await self._link.history(self._prompt.id)) is not None:
                await self._attempt.finish(entry)
                return
        # Another client has cleared the worker's history.
        await self._attempt.finish(self._attempt.heard_entry())
