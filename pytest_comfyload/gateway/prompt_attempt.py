"""One attempt at a prompt on one worker: its messages, translated for the client, and its result."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_comfyload.gateway.gateway_metrics import GatewayMetrics
from pytest_comfyload.gateway.prompt_store import PromptStore, TakenPrompt
from pytest_comfyload.gateway.rewriting import (
    ENDS,
    StampTranslator,
    ended_entry,
    failed_entry,
    file_paths,
    frame,
    gateway_time,
    named,
)
from pytest_comfyload.protocol.json_values import NotJson, as_dict, parse_json, write_json

__all__ = ["PromptAttempt", "queue_item"]


def queue_item(id: str, number: int, body: Mapping[str, Any], client: str) -> list[Any]:
    """Return a prompt as /queue and /history show it, with secrets removed."""
    secret = ("auth_token_comfy_org", "api_key_comfy_org")
    extra = {name: value for name, value in as_dict(body.get("extra_data")).items() if name not in secret}
    extra |= {"client_id": client} if client else {}
    return [number, id, body.get("prompt"), extra, body.get("outputs") or []]


@dataclass(slots=True)
class PromptAttempt:
    """One attempt at a prompt on one worker.

    `sent` is the time at which the prompt was posted, on the gateway's clock; `progress_at` is the time of its last
    progress, on the monotonic clock.
    """

    prompt: TakenPrompt
    token: str
    worker: str
    scale: float
    store: PromptStore
    stamps: StampTranslator
    metrics: GatewayMetrics
    sent: float = 0.0
    progress_at: float = field(default_factory=time.monotonic)
    is_over: bool = False
    _begun: float = field(default_factory=time.monotonic)
    _node: tuple[str, float] | None = None
    _outputs: dict[str, Any] = field(default_factory=dict)
    _told: dict[str, bytes] = field(default_factory=dict)
    _end_heard: list[Any] | None = None

    @property
    def channel(self) -> str:
        """The channel of the client's sockets; empty for a prompt without a client."""
        return f"client:{self.prompt.user}:{self.prompt.client}" if self.prompt.client else ""

    @property
    def item(self) -> list[Any]:
        return queue_item(self.prompt.id, self.prompt.number, self.prompt.body, self.prompt.client)

    async def hear(self, frames: Sequence[str | bytes]) -> None:
        """Pass the worker's messages on to the client, and set `is_over` at the last one.

        Raises: StoreUnavailable.
        """
        passing: list[bytes] = []
        executed: dict[str, bytes] = {}
        for each in frames:
            if isinstance(each, bytes):
                passing.append(each)
                self.progress_at = time.monotonic()
                continue
            kind, data = _parsed(each)
            if data.get("prompt_id") != self.prompt.id:
                continue
            self.progress_at = time.monotonic()
            if kind in ENDS:
                self._end_heard = [kind, data]
                continue
            if kind == "executed":
                self._outputs[str(data.get("node"))] = data.get("output")
                told = {**data, "output": named(as_dict(data.get("output")), self.worker)}
                passing.append(frame("executed", told))
                executed[str(data.get("node"))] = passing[-1]
            elif kind == "executing" and data.get("node") is None:
                self.is_over = True
            else:
                passing.append(self._translated(kind, data, each))
        if passing and self.channel and await self.store.publish(self.channel, passing):
            self._told |= executed

    def _translated(self, kind: str, data: Mapping[str, Any], text: str) -> bytes:
        if kind == "execution_start":
            self.stamps.observe(data.get("timestamp"), self.sent, gateway_time(self.scale))
        elif kind == "executing":
            self._note_node(str(data.get("node")))
        return frame(kind, self.stamps.translated(data)) if "timestamp" in data else text.encode()

    def _note_node(self, node_id: str | None) -> None:
        now = time.monotonic()
        if self._node is not None:
            class_type = as_dict(as_dict(self.prompt.body.get("prompt")).get(self._node[0])).get("class_type")
            self.metrics.note_node(str(class_type), now - self._node[1])
        self._node = None if node_id is None else (node_id, now)

    # --- ends ---

    async def finish(self, entry: Mapping[str, Any]) -> None:
        """End the prompt with the result from the worker's history. Raises: StoreUnavailable."""
        if self.sent:
            for kind, data in _messages(entry):
                if kind == "execution_start":
                    self.stamps.observe(data.get("timestamp"), self.sent, gateway_time(self.scale))
        self._note_node(None)
        await self._end(*ended_entry(entry, self.item, self.worker, self.stamps))

    def heard_entry(self) -> Mapping[str, Any]:
        """Return a history entry built from the worker's messages."""
        messages = [self._end_heard] if self._end_heard else []
        is_success = not messages or messages[0][0] == "execution_success"
        status = {"status_str": "success" if is_success else "error", "completed": is_success, "messages": messages}
        return {"outputs": dict(self._outputs), "status": status, "meta": {}}

    async def fail(self, kind: str, message: str, node: tuple[str, str] = ("", "")) -> None:
        """End the prompt with an error, since no worker will have a result. Raises: StoreUnavailable."""
        await self._end(*failed_entry(self.item, kind, message, gateway_time(self.scale), node))

    async def _end(self, status: str, entry: Mapping[str, Any], frames: Sequence[bytes]) -> None:
        shown = {**entry, "prompt": _stamped(entry["prompt"], self.prompt.created)}
        outputs = as_dict(entry.get("outputs"))
        # The client may have missed outputs while it was disconnected, or while another gateway drove the prompt.
        late = [self._late(node, output) for node, output in outputs.items() if node not in self._told]
        done = await self.store.finish(
            self.prompt.id,
            self.token,
            self.prompt.attempt,
            status,
            write_json(shown),
            [*self._told.values()],
            [*late, *frames],
            file_paths(outputs),
        )
        if done == "ok":
            self.metrics.ended.labels(status, self.worker).inc()
            self.metrics.execution.labels(self.worker).observe(time.monotonic() - self._begun)

    def _late(self, node: str, output: Any) -> bytes:
        return frame("executed", {"node": node, "display_node": node, "output": output, "prompt_id": self.prompt.id})


def _stamped(item: Sequence[Any], created: float) -> list[Any]:
    """Return the item with the time at which the gateway accepted the prompt, in milliseconds."""
    number, id, graph, extra_data, outputs = item
    return [number, id, graph, {**extra_data, "create_time": round(created * 1000)}, outputs]


def _messages(entry: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    messages = as_dict(entry.get("status")).get("messages")
    return [
        (str(each[0]), as_dict(each[1]))
        for each in (messages if isinstance(messages, list) else [])
        if isinstance(each, list) and len(each) == 2
    ]


def _parsed(text: str) -> tuple[str, Mapping[str, Any]]:
    try:
        message = as_dict(parse_json(text))
    except NotJson:
        return "", {}
    return str(message.get("type")), as_dict(message.get("data"))
