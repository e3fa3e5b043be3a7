"""One virtual user: sends a prompt, follows it to its end, fetches what it made; whatever happens is an outcome."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import uuid
from collections.abc import Callable, Sequence

from pytest_comfyload.client.comfy import ComfyClient, PendingPrompt
from pytest_comfyload.client.outputs import inspect
from pytest_comfyload.engine.plan import Plan, Prompt
from pytest_comfyload.errors import (
    ComfyloadError,
    ConnectionRefused,
    Disconnected,
    HostNotFound,
    PromptRejected,
    ServerError,
    ServerTimeout,
    TlsFailure,
)
from pytest_comfyload.protocol.bodies import OutputFile, output_files, output_texts
from pytest_comfyload.protocol.messages import ExecutionError, ExecutionInterrupted
from pytest_comfyload.protocol.timeline import PromptState, Stage, Timeline
from pytest_comfyload.result.outcome import FetchedFile, Outcome, OutcomeStatus, cache_class, cached_classes

__all__ = ["User"]

# Real seconds that the book-keeping after a prompt may wait for the server to write its history.
CLOSING_TIME = 2.0
# Real seconds before a user whose connection failed tries again: a server that is gone is not hammered.
RETRY_PAUSE = 1.0
# Ends after which the server may still hold the prompt.
_GIVEN_UP = (OutcomeStatus.TIMEOUT, OutcomeStatus.CONNECTION, OutcomeStatus.HTTP_ERROR)


@dataclasses.dataclass(slots=True)
class _Attempt:
    """What is known of a prompt while it is on its way."""

    prompt: Prompt
    pending: PendingPrompt
    iteration: int
    intended: float
    status: OutcomeStatus = OutcomeStatus.SUCCESS
    error: str | None = None
    fetched: float | None = None
    contents: list[tuple[OutputFile, bytes | None]] = dataclasses.field(default_factory=list)

    @property
    def state(self) -> PromptState:
        return self.pending.state

    def fail(self, status: OutcomeStatus, error: str) -> None:
        self.status, self.error = status, error


class User:
    """Runs prompts one at a time. `settle()` waits for the book-keeping, which never delays the next prompt."""

    def __init__(self, index: int, client: ComfyClient, plan: Plan, report: Callable[[Outcome], None]) -> None:
        self.index = index
        self.client = client
        # Prompts that the server may still hold; what is censored stays here for the engine to remove.
        self.outstanding: set[str] = set()
        self._plan = plan
        self._report = report
        self._bookkeeping: set[asyncio.Task[None]] = set()

    def prepare(self, iteration: int) -> Prompt:
        return self._plan.prompts(self.client.address.url, self.index, iteration)

    async def run(self, prompt: Prompt, iteration: int, intended: float) -> float:
        """One prompt from its intended start to its outputs in hand; returns when that was (run's clock)."""
        pending = self.client.expect(str(uuid.uuid4()), prompt.graph)
        attempt = _Attempt(prompt, pending, iteration, intended)
        try:
            await self._live(attempt)
        except asyncio.CancelledError:
            attempt.fail(OutcomeStatus.CENSORED, "cut off: the run ended before the prompt did")
            raise
        except ComfyloadError as error:
            attempt.fail(_kind_of(error), str(error))
        finally:
            self._keep_books(attempt)
        if attempt.status is OutcomeStatus.CONNECTION:
            await asyncio.sleep(RETRY_PAUSE)
        return self.client.clock.now()

    async def settle(self) -> None:
        if self._bookkeeping:
            await asyncio.gather(*self._bookkeeping)

    # --- while the user waits ---

    async def _live(self, attempt: _Attempt) -> None:
        await self.client.reopen()
        self.outstanding.add(attempt.state.prompt_id)
        extra_data = {"comfyload": {"run": self._plan.run_id}}
        answer = await self.client.submit(attempt.pending, attempt.prompt.graph, extra_data)
        await self._follow(attempt.pending)
        self._judge_end(attempt)
        if answer.node_errors and attempt.status is OutcomeStatus.SUCCESS:
            attempt.fail(OutcomeStatus.PARTIAL, f"the server dropped outputs of nodes {', '.join(answer.node_errors)}")
        if attempt.state.stage is Stage.SUCCEEDED:
            await self._fetch(attempt)

    async def _follow(self, pending: PendingPrompt) -> None:
        """Until the prompt is over. Raises: ServerTimeout; Disconnected."""
        if not await self._started(pending):
            await self._last_look(pending, "waited in the queue for")
        clock, timeout = self.client.clock, self._plan.timeout
        since = pending.state.started_at
        remaining = timeout - (clock.now() - since) if since is not None else timeout
        if not await pending.wait_until(lambda state: state.stage.over, clock.wall(max(0.0, remaining))):
            await self._last_look(pending, "was executing for")
        if pending.state.stage is Stage.SUCCEEDED and not pending.state.outputs:
            # A cached prompt's outputs may not come over the socket; the history is safe once this is closed.
            await pending.wait_until(lambda state: state.closed, CLOSING_TIME)
            await self._read_history(pending.state)

    async def _started(self, pending: PendingPrompt) -> bool:
        """False when the prompt has waited longer than anybody would."""
        clock = self.client.clock
        sent = clock.now()
        while (deadline := self._patience(sent)) > clock.now():
            if await pending.wait_until(lambda state: state.stage >= Stage.RUNNING, clock.wall(deadline - clock.now())):
                return True
        return False

    def _patience(self, sent: float) -> float:
        """Until when a prompt may wait: its own limit, or `timeout` after the server's last sign of life.

        A server that works tells every socket each change of its queue, so that silence means that nothing runs.
        """
        silence = max(sent, self.client.last_heard) + self._plan.timeout
        limit = self._plan.queue_timeout
        return silence if limit is None else min(silence, sent + limit)

    async def _last_look(self, pending: PendingPrompt, what: str) -> None:
        """Before a prompt is given up: the history may know an end that the socket never told."""
        state, now = pending.state, self.client.clock.now()
        await self._read_history(state)
        if not state.stage.over:
            waited = now - (state.started_at or state.sent_at or now)
            raise ServerTimeout(f"the prompt {what} {waited:.0f} s and was given up")

    def _judge_end(self, attempt: _Attempt) -> None:
        match attempt.state.error:
            case ExecutionError() as error:
                status = OutcomeStatus.OOM if _is_oom(error) else OutcomeStatus.EXECUTION_ERROR
                message = error.exception_message.strip()
                attempt.fail(status, f"{error.node_type} (node {error.node_id}): {error.exception_type}: {message}")
            case ExecutionInterrupted() as error:
                attempt.fail(OutcomeStatus.INTERRUPTED, f"interrupted in {error.node_type} (node {error.node_id})")

    async def _fetch(self, attempt: _Attempt) -> None:
        for file in output_files(attempt.state.outputs):
            attempt.contents.append((file, await self.client.fetch(file) if self._plan.fetch else None))
        attempt.fetched = self.client.clock.now()

    # --- after the user has got the outputs ---

    def _keep_books(self, attempt: _Attempt) -> None:
        if attempt.status is not OutcomeStatus.CENSORED:
            self.outstanding.discard(attempt.state.prompt_id)
        task = asyncio.create_task(self._close(attempt))
        self._bookkeeping.add(task)
        task.add_done_callback(self._bookkeeping.discard)

    async def _close(self, attempt: _Attempt) -> None:
        state = attempt.state
        if state.stage.over and not state.closed:
            with contextlib.suppress(Disconnected):
                await attempt.pending.wait_until(lambda state: state.closed, CLOSING_TIME)
        if state.stage.over:
            await self._read_history(state)
        elif attempt.status in _GIVEN_UP and state.sent_at is not None:
            await self._withdraw(state.prompt_id)
        self.client.forget(state.prompt_id)
        files, faults = await asyncio.to_thread(_look_at, attempt.contents)
        if faults and attempt.status is OutcomeStatus.SUCCESS:
            attempt.fail(OutcomeStatus.BAD_OUTPUT, "; ".join(faults))
        self._report(self._outcome(attempt, files))

    async def _withdraw(self, prompt_id: str) -> None:
        with contextlib.suppress(ServerError):
            await self.client.delete_pending([prompt_id])
            await self.client.interrupt(prompt_id)

    async def _read_history(self, state: PromptState) -> None:
        with contextlib.suppress(ServerError):
            entry = await self.client.history(state.prompt_id)
            if entry is not None:
                state.apply_history(entry, self.client.clock.now())

    def _outcome(self, attempt: _Attempt, files: tuple[FetchedFile, ...]) -> Outcome:
        client, prompt, state = self.client, attempt.prompt, attempt.state
        over = state.stage.over
        return Outcome(
            prompt_id=state.prompt_id,
            server=client.address.url,
            client_id=client.client_id,
            user=self.index,
            iteration=attempt.iteration,
            workflow=self._plan.workflow,
            status=attempt.status,
            intended=attempt.intended,
            warmup=attempt.iteration < 0,
            error=attempt.error,
            cache_class=cache_class(prompt.graph.keys(), state.cached, prompt.varied) if over else None,
            timeline=self._timeline(attempt),
            outputs=files,
            texts=output_texts(state.outputs),
            text=prompt.text,
            seeds=prompt.seeds,
            inputs=prompt.inputs,
            cached=cached_classes(prompt.graph, state.cached) if over else (),
        )

    def _timeline(self, attempt: _Attempt) -> Timeline | None:
        client, state = self.client, attempt.state
        if state.sent_at is None:
            return None
        clock = client.server_clock
        timeline = state.timeline(attempt.intended, clock.offset, client.clock.scale, stepped=clock.stepped)
        if attempt.fetched is None or timeline.delivered is None:
            return timeline
        return dataclasses.replace(timeline, fetched=max(attempt.fetched, timeline.delivered))


def _look_at(contents: Sequence[tuple[OutputFile, bytes | None]]) -> tuple[tuple[FetchedFile, ...], list[str]]:
    files, faults = [], []
    for file, content in contents:
        fetched = FetchedFile(file.node_id, file.kind, file.filename, file.subfolder, file.type)
        if content is not None:
            seen = inspect(file, content)
            fetched = dataclasses.replace(fetched, size=len(content), width=seen.width, height=seen.height)
            faults += [seen.fault] if seen.fault else []
        files.append(fetched)
    return tuple(files), faults


def _is_oom(error: ExecutionError) -> bool:
    text = f"{error.exception_type} {error.exception_message}".lower()
    return "outofmemory" in text or "out of memory" in text


def _kind_of(error: ComfyloadError) -> OutcomeStatus:
    match error:
        case PromptRejected():
            return OutcomeStatus.REJECTED
        case ServerTimeout():
            return OutcomeStatus.TIMEOUT
        case ConnectionRefused() | HostNotFound() | TlsFailure() | Disconnected():
            return OutcomeStatus.CONNECTION
        case _:
            return OutcomeStatus.HTTP_ERROR
