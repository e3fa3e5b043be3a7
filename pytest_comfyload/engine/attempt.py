"""One prompt in progress, and the outcome that it ends with."""

from __future__ import annotations

import dataclasses
from functools import partial

from pytest_comfyload.client.comfy import ComfyClient
from pytest_comfyload.client.event_stream import PendingPrompt
from pytest_comfyload.client.outputs import DecodingSample, Inspection, inspect
from pytest_comfyload.client.response_body import MemoryShare
from pytest_comfyload.engine.plan import Contents, Prompt
from pytest_comfyload.errors import (
    ComfyloadError,
    ConnectionRefused,
    Disconnected,
    HostNotFound,
    PromptLost,
    PromptRejected,
    ServerTimeout,
    TlsFailure,
    WorkerDead,
)
from pytest_comfyload.protocol.events import ExecutionError, ExecutionInterrupted
from pytest_comfyload.protocol.oom import is_oom
from pytest_comfyload.protocol.outputs import OutputFile, output_texts
from pytest_comfyload.protocol.prompt_state import PromptState
from pytest_comfyload.protocol.server_clock import ServerClock
from pytest_comfyload.protocol.timeline import Timeline
from pytest_comfyload.result.outcome import Outcome, OutcomeStatus, cache_class, classes_of
from pytest_comfyload.result.output_files import FetchedFile, results_of
from pytest_comfyload.text import harmless

__all__ = ["Attempt", "kind_of", "listed", "look_at"]


@dataclasses.dataclass(slots=True)
class Attempt:
    """A prompt in progress. `contents` are its output files with their bytes, or None if they were not fetched."""

    prompt: Prompt
    pending: PendingPrompt
    client: ComfyClient
    user: int
    group: str | None
    stage: int | None
    iteration: int
    intended: float
    client_id: str = ""
    status: OutcomeStatus = OutcomeStatus.SUCCESS
    error: str | None = None
    fetched: float | None = None
    contended: bool = False
    worker: str | None = None
    server_clock: ServerClock | None = None
    contents: list[tuple[OutputFile, bytes | None]] = dataclasses.field(default_factory=list)
    memory: MemoryShare = dataclasses.field(kw_only=True)

    @property
    def state(self) -> PromptState:
        return self.pending.state

    def fail(self, status: OutcomeStatus, error: str) -> None:
        self.status, self.error = status, harmless(error)

    def ran_at(self, worker: str, clock: ServerClock) -> None:
        """Note that a worker behind the server ran the prompt, whose timestamps are of that worker's own clock."""
        self.worker, self.server_clock = worker, clock

    def judge_end(self) -> None:
        """Set the status according to what the server reported about the execution."""
        match self.state.error:
            case ExecutionError() as error:
                status = (
                    OutcomeStatus.OOM
                    if is_oom(error.exception_type, error.exception_message)
                    else OutcomeStatus.EXECUTION_ERROR
                )
                message = error.exception_message.strip()
                self.fail(status, f"{error.node_type} (node {error.node_id}): {error.exception_type}: {message}")
            case ExecutionInterrupted() as error:
                self.fail(OutcomeStatus.INTERRUPTED, f"interrupted in {error.node_type} (node {error.node_id})")

    def outcome(self, files: tuple[FetchedFile, ...]) -> Outcome:
        client, prompt, state = self.client, self.prompt, self.state
        graph = prompt.graph
        return Outcome(
            prompt_id=state.prompt_id,
            server=client.address.url,
            worker=self.worker,
            client_id=self.client_id,
            user=self.user,
            group=self.group,
            stage=self.stage,
            iteration=self.iteration,
            workflow=prompt.workflow,
            status=self.status,
            intended=self.intended,
            warmup=self.iteration < 0,
            contended=self.contended,
            error=self.error,
            cache_class=cache_class(graph, state.cached, prompt.fresh, prompt.needed) if state.stage.over else None,
            timeline=self._timeline(),
            outputs=files,
            texts=tuple(map(harmless, output_texts(state.outputs))),
            text=prompt.text,
            seeds=prompt.seeds,
            inputs=prompt.inputs,
            cached=classes_of(graph, state.cached) if state.stage.over else (),
            reused=classes_of(graph, state.cached & prompt.fresh) if state.stage.over else (),
        )

    def _timeline(self) -> Timeline | None:
        state, clock = self.state, self.server_clock or self.client.server_clock
        if state.sent_at is None:
            return None
        if (bounds := state.offset_bounds()) is not None:
            clock.observe(*bounds)
        timeline = state.timeline(self.intended, clock.offset, self.client.clock.scale)
        if self.fetched is None or timeline.delivered is None:
            return timeline
        return dataclasses.replace(timeline, fetched=max(self.fetched, timeline.delivered))


def listed(contents: Contents) -> tuple[FetchedFile, ...]:
    """Return the files by name and size only, without inspecting them."""
    return tuple(_kept(file, content) for file, content in contents)


def _kept(file: OutputFile, content: bytes | None, seen: Inspection | None = None) -> FetchedFile:
    seen = seen or Inspection()
    return FetchedFile(
        file.node_id,
        file.kind,
        file.filename,
        file.subfolder,
        file.type,
        None if content is None else len(content),
        width=seen.width,
        height=seen.height,
        pixels=seen.pixels,
        blank=seen.blank,
    )


def look_at(contents: Contents, sample: DecodingSample, key: str) -> tuple[tuple[FetchedFile, ...], list[str]]:
    """Inspect the files, and return them as they are stored, with the faults of the results among them.

    `key` identifies the prompt to `sample`, which draws the pictures to decode.
    """
    files: list[FetchedFile] = []
    faults: list[tuple[FetchedFile, str]] = []
    for number, (file, content) in enumerate(contents):
        draws = partial(sample.draws, f"{key} {number}")
        seen = None if content is None else inspect(file, content, draws)
        files.append(_kept(file, content, seen))
        if seen is not None and seen.fault:
            faults.append((files[-1], seen.fault))
    results = results_of(files)
    return tuple(files), [fault for file, fault in faults if file in results]


def kind_of(error: ComfyloadError) -> OutcomeStatus:
    """Return the status of a prompt that failed with an error of this package, such as a lost connection."""
    match error:
        case PromptRejected():
            return OutcomeStatus.REJECTED
        case ServerTimeout():
            return OutcomeStatus.TIMEOUT
        case PromptLost() | WorkerDead():
            return OutcomeStatus.LOST
        case ConnectionRefused() | HostNotFound() | TlsFailure() | Disconnected():
            return OutcomeStatus.CONNECTION
        case _:
            return OutcomeStatus.HTTP_ERROR
