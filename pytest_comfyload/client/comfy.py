"""Client of one ComfyUI server: a `client_id`, a WebSocket that is read constantly, an HTTP client with own cookies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.clock import Clock
from pytest_comfyload.client.event_stream import EventStream, PendingPrompt
from pytest_comfyload.client.response_body import MemoryShare
from pytest_comfyload.client.transport import DEADLINE, Transport
from pytest_comfyload.errors import HttpError, NotComfyUI, PromptRejected
from pytest_comfyload.protocol.bodies import (
    HistoryEntry,
    LogEntry,
    PromptAnswer,
    QueueSnapshot,
    parse_guessed_times,
    parse_history_entry,
    parse_history_page,
    parse_job_count,
    parse_log,
    parse_object_info,
    parse_prompt_answer,
    parse_queue,
    parse_queue_remaining,
    parse_queued,
    parse_rejection,
)
from pytest_comfyload.protocol.outputs import OutputFile
from pytest_comfyload.protocol.prompt_state import PromptState
from pytest_comfyload.protocol.server_clock import ServerClock
from pytest_comfyload.protocol.system_stats import (
    SystemStats,
    parse_custom_nodes,
    parse_model_sizes,
    parse_system_stats,
)
from pytest_comfyload.redaction import redacted_values

__all__ = ["MAX_OUTPUT", "ComfyClient"]

_T = TypeVar("_T")


# Real seconds for the download of a prompt's outputs if the scenario has no other limit.
FETCH_DEADLINE = 300.0
# Maximum characters of an output's name and folder: no system has longer paths.
MAX_NAME = 4096
# Maximum bytes of one output.
MAX_OUTPUT = 256 * 2**20


class ComfyClient:
    """Client that submits prompts, follows their events and fetches their outputs.

    It serves one user or several, all in the same event loop.

    Args:
        patience: Real seconds that one exchange, or the download of all outputs, may take.
    """

    def __init__(
        self,
        address: ServerAddress,
        clock: Clock | None = None,
        server_clock: ServerClock | None = None,
        on_queue: Callable[[int], None] = lambda remaining: None,
        patience: float = FETCH_DEADLINE,
    ) -> None:
        self.address = address
        self.clock = clock or Clock()
        self.server_clock = server_clock or ServerClock()
        self.patience = patience
        exchange = min(DEADLINE, patience, address.deadline or DEADLINE)
        self._transport = Transport(address, deadline=exchange)
        self._events = EventStream(self._transport, self.clock, on_queue, exchange)

    async def __aenter__(self) -> ComfyClient:
        try:
            await self.open()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    @property
    def client_id(self) -> str:
        return self._events.client_id

    @property
    def last_heard(self) -> float:
        """When the server last gave a sign of life (client's clock)."""
        return self._events.last_heard

    async def open(self) -> None:
        """Open the HTTP connection, then the WebSocket, unless they are already open. Raises: ServerError."""
        await self._events.open()

    async def reopen(self) -> None:
        """If the WebSocket was lost, open another. Raises: ServerError."""
        await self._events.reopen()

    def distrust_socket(self) -> None:
        """Give up a WebSocket that is open but did not deliver what it should have: the next prompt gets another."""
        self._events.distrust()

    async def aclose(self) -> None:
        await self._events.aclose()
        await self._transport.aclose()

    # --- prompts ---

    def expect(self, prompt_id: str, graph: Mapping[str, Any]) -> PendingPrompt:
        """Listen for a prompt that is about to be sent: its first events can come before the response to the POST."""
        return self._events.expect(prompt_id, graph)

    @property
    def on_their_way(self) -> list[PromptState]:
        """The prompts whose events are being followed."""
        return self._events.on_their_way

    def forget(self, prompt_id: str) -> None:
        self._events.forget(prompt_id)

    async def submit(
        self, pending: PendingPrompt, graph: Mapping[str, Any], extra_data: Mapping[str, Any] | None = None
    ) -> PromptAnswer:
        """POST the prompt. Raises: PromptRejected with the server's reasons; ServerError."""
        prompt_id = pending.state.prompt_id
        body = {"prompt": graph, "prompt_id": prompt_id, "client_id": self.client_id, "extra_data": extra_data or {}}
        # The loss of a socket before this moment does not matter: its client_id is not the one that is sent.
        pending.reattach()
        pending.state.send(self.clock.now())
        status, answer = await self._transport.post_json("/prompt", body)
        if status != 200:
            raise _rejected(answer, status, self.address)
        answered = self.clock.now()
        accepted = self._understood(parse_prompt_answer, answer)
        if accepted.prompt_id != prompt_id:
            raise NotComfyUI(
                f"{self.address.url}: POST /prompt answered with the prompt_id {accepted.prompt_id[:80]!r}, not "
                "the one that was sent, so its prompts cannot be followed"
            )
        pending.state.answer(answered)
        if self._events.lost is not None:
            pending.notify(self._events.lost)
        return accepted

    async def fetch(self, file: OutputFile, share: MemoryShare | None = None) -> bytes:
        """Download an output; its bytes are counted in `share`. Raises: ServerError."""
        query = {"filename": file.filename, "subfolder": file.subfolder, "type": file.type}
        if (length := sum(map(len, query.values()))) > MAX_NAME:
            raise NotComfyUI(f"{self.address.url}: an output of node {file.node_id} has a name of {length} characters")
        return await self._transport.get_bytes("/view", query, deadline=self.patience, limit=MAX_OUTPUT, share=share)

    # --- the server ---

    async def history(self, prompt_id: str) -> HistoryEntry | None:
        """Return the history entry of a prompt; None while it is pending, running or unknown. Raises: ServerError."""
        body = await self._transport.get_json(f"/history/{prompt_id}")
        return self._understood(lambda body: parse_history_entry(body, prompt_id), body)

    async def history_page(self, count: int, offset: int | None = None) -> tuple[HistoryEntry, ...]:
        """Return `count` entries of the history, starting at index `offset`, or the newest. Raises: ServerError."""
        query = {"max_items": str(count)} | ({} if offset is None else {"offset": str(offset)})
        return self._understood(parse_history_page, await self._transport.get_json("/history", query))

    async def queue_remaining(self) -> int:
        """Return the number of pending and running prompts; cheap, however long the queue is. Raises: ServerError."""
        return self._understood(parse_queue_remaining, await self._transport.get_json("/prompt"))

    async def running_jobs(self) -> int:
        """Return the number of running prompts. Raises: ServerError; HttpError from a server older than 0.6."""
        body = await self._transport.get_json("/api/jobs", {"status": "in_progress", "limit": "1"})
        return self._understood(parse_job_count, body)

    async def system_stats(self) -> SystemStats:
        """Return /system_stats without secrets, since the result is shown and stored. Raises: ServerError."""
        stats = redacted_values(await self._transport.get_json("/system_stats"))
        return self._understood(parse_system_stats, stats)

    async def log(self) -> tuple[LogEntry, ...]:
        """Return the end of the server's log. Raises: ServerError; HttpError from a server that does not show it."""
        return parse_log(await self._transport.get_json("/internal/logs/raw"))

    async def queue(self) -> QueueSnapshot:
        """Return the ids of pending and running prompts. Raises: ServerError."""
        return self._understood(parse_queue, await self._transport.get_json("/queue"))

    async def queued(self) -> tuple[HistoryEntry, ...]:
        """Return running and pending prompts as history entries without outputs and events. Raises: ServerError."""
        return self._understood(parse_queued, await self._transport.get_json("/queue"))

    async def object_info(self, node_class: str | None = None) -> Mapping[str, Any]:
        """Return the description of one node class (empty if the server lacks it), or of all. Raises: ServerError."""
        body = await self._transport.get_json("/object_info" + (f"/{quote(node_class, safe='')}" if node_class else ""))
        return parse_object_info(body)

    async def announce(self, graph: Mapping[str, Any]) -> tuple[str, ...]:
        """Announce a workflow to a simulator; return the node classes whose times it guesses. Raises: ServerError."""
        _, answer = await self._transport.post_json("/simulator/workflow", {"prompt": graph})
        return parse_guessed_times(answer)

    async def custom_nodes(self) -> Mapping[str, str]:
        """Return the commit or version of each custom node pack, by its folder's name.

        Raises: ServerError; HttpError without ComfyUI-Manager.
        """
        try:
            body = await self._transport.get_json("/customnode/installed")
        except HttpError:
            # The Manager may be a part of ComfyUI instead of a custom node.
            body = await self._transport.get_json("/v2/customnode/installed")
        return self._understood(parse_custom_nodes, redacted_values(body))

    async def model_sizes(self, folder: str) -> Mapping[str, int]:
        """Return the size in bytes of each file in a model folder, by name.

        Raises: ServerError; HttpError from a server that does not report sizes.
        """
        return self._understood(parse_model_sizes, await self._transport.get_json(f"/experiment/models/{folder}"))

    async def has_input(self, name: str, subfolder: str) -> bool:
        """Return whether the server's input folder has this file, according to /view. Raises: ServerError."""
        return await self._transport.has("/view", {"filename": name, "subfolder": subfolder, "type": "input"})

    async def upload_input(self, name: str, content: bytes, subfolder: str) -> None:
        """Upload a file of any kind to the server's input folder, replacing one of that name. Raises: ServerError."""
        fields = {"type": "input", "subfolder": subfolder, "overwrite": "true"}
        await self._transport.post_file("/upload/image", "image", name, content, fields)

    async def delete_pending(self, prompt_ids: Sequence[str]) -> None:
        """Remove pending prompts from the queue; a running one is not affected. Raises: ServerError."""
        await self._transport.post("/queue", {"delete": list(prompt_ids)})

    async def interrupt(self, prompt_id: str) -> None:
        """Interrupt a prompt if it is the running one. Raises: ServerError."""
        await self._transport.post("/interrupt", {"prompt_id": prompt_id})

    async def free(self) -> None:
        """Request that cached results be dropped and models unloaded, which the server does between two prompts.

        Raises: ServerError.
        """
        await self._transport.post("/free", {"unload_models": True, "free_memory": True})

    def _understood(self, parse: Callable[[object], _T], body: object) -> _T:
        try:
            return parse(body)
        except NotComfyUI as error:
            raise NotComfyUI(f"{self.address.url}: {error}") from None


def _rejected(answer: object, status: int, address: ServerAddress) -> HttpError:
    rejection = parse_rejection(answer)
    if rejection is None:
        return HttpError(f"{address.url}: POST /prompt answered {status}", status)
    return PromptRejected(f"{address.url} rejected the prompt: {rejection.sentence()}", status, rejection.node_errors)
