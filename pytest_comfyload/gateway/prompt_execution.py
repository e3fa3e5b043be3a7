"""Sees one prompt through on its worker, whatever happens to the worker meanwhile.

A prompt of which the gateway has lost sight is looked for at the worker first. Only what the worker does not know is
given back to the queue, once; a prompt that was tried twice ends with `WorkerLost`.
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

# Seconds for which a worker that does not answer is waited for.
GRACE = 20.0
# Seconds without a message after which the worker's history is asked.
QUIET = 2.0
# Seconds for which a prompt may wait at a worker that executes nothing.
STUCK = 10.0
# Seconds between two renewals of a prompt's lease.
RENEWED = 1.0
TRIES = 2


class UploadMissing(ComfyloadError):
    """An upload that a prompt reads is on no worker that answers."""


class PromptExecution:
    """One prompt on one worker.

    Args:
        stall: Seconds without an event after which the prompt is given up.
        connect: Opens the worker's WebSocket under a client id.
        copy_inputs: Copies the uploads that the prompt reads to the worker, if it lacks them or, where the flag is set,
            if it lost them; whether there were some. Raises: UploadMissing, ServerError, StoreUnavailable.
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
        """See the prompt through to its end, or give it back. Raises: ServerError, StoreUnavailable."""
        if self._prompt.found:
            # The messages go to the client id that it was sent with.
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
        """Give the prompt back, or end it where that was done before.

        `suspicion`: the worker may execute it all the same. Raises: StoreUnavailable.
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
        """Send the prompt; False: it is not the worker's. Raises: ServerError, StoreUnavailable."""
        try:
            await self._copy_inputs(self._link, self._prompt, False)
            if self._prompt.attempt > 1:
                # What is left there of an earlier try, an interruption perhaps, is not the end of this one.
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
            # This is about the worker, not about the prompt.
            raise HttpError(f"{self._link.title}: POST /prompt answered {status}", status)
        rejection = parse_rejection(answer)
        words = rejection.sentence() if rejection else f"POST /prompt answered {status}"
        node = next((id for id, _, _ in refused_inputs(rejection.node_errors)), "") if rejection else ""
        class_type = as_dict(as_dict(self._prompt.body.get("prompt")).get(node)).get("class_type")
        await self._attempt.fail("PromptRejected", words, (node, str(class_type or "")))
        return False

    async def _is_taken(self) -> bool:
        """Return whether another gateway has the prompt: this one may have stood still. Raises: StoreUnavailable."""
        if time.monotonic() - self._taken_at < RENEWED:
            return False
        state = await self._store.renew(self._prompt.id, self._attempt.token, self._stall)
        self._taken_at = time.monotonic()
        return state == "stale"

    def _body(self) -> dict[str, object]:
        # Never `number` or `front`: two prompts of one number can end a worker's thread.
        targets = self._prompt.body.get("targets")
        return {
            "prompt": self._prompt.body.get("prompt"),
            "prompt_id": self._prompt.id,
            "client_id": self._link.client_id,
            "extra_data": self._prompt.body.get("extra_data") or {},
            **({} if targets is None else {"partial_execution_targets": targets}),
        }

    async def _find(self) -> str:
        """Look for the prompt at the worker: where it is there; empty: it has ended, or is not there.

        Raises: ServerError, StoreUnavailable.
        """
        for _ in range(2):  # it may end between the two questions
            if (entry := await self._link.history(self._prompt.id)) is not None:
                await self._attempt.finish(entry)
                return ""
            if place := await self._link.place_of(self._prompt.id):
                return place
        await self.give_up("its worker does not know it any more")
        return ""

    async def _follow(self) -> None:
        """Hand on what the worker says until the prompt has ended, or is another gateway's.

        Raises: ServerError, StoreUnavailable.
        """
        renewed_at = time.monotonic()
        while True:
            frames = await self._link.next_frames(QUIET)
            self._sound_at = time.monotonic() if frames else self._sound_at
            # First, since this gateway may have stood still: what another one has told is not told again.
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
        """Look for the prompt after a silence. Raises: ServerError, StoreUnavailable; WorkerDead."""
        place = await self._find()
        self._sound_at = time.monotonic()
        if not place:
            # The end was not told: this WebSocket is deaf.
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
        """Renew the lease by what progress there was; False: the prompt is another gateway's, or has ended.

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
            return True  # Redis has forgotten in a crash that it was taken; the result will count
        if now == "ended" or worker != self._link.name:
            await self._link.drop(self._prompt.id)
        return False

    async def _take_result(self) -> None:
        """Raises: ServerError, StoreUnavailable."""
        for pause in (0.0, 0.02, 0.1, 0.3):
            await asyncio.sleep(pause)
            if (entry := await self._link.history(self._prompt.id)) is not None:
                await self._attempt.finish(entry)
                return
        # Another client has cleared the worker's history.
        await self._attempt.finish(self._attempt.heard_entry())
