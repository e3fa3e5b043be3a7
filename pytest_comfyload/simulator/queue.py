"""The queue of the only executor, ordered like ComfyUI's heap, and the history of finished prompts.

Two pending prompts with the same number and prompt id cannot be sorted: comparing them raises a TypeError. The second
is answered with a 500 but stays in the queue, and the worker that compares the two dies. This is a fault of the real
server.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from pytest_comfyload.simulator.library import Prompt

__all__ = ["PromptHistory", "PromptQueue", "QueuedPrompt"]


@dataclass(frozen=True, slots=True)
class QueuedPrompt:
    """An accepted prompt; `accepted` is the virtual epoch time in seconds."""

    number: float
    prompt_id: str
    prompt: Prompt
    extra_data: dict[str, Any]
    outputs: list[str]
    accepted: float

    @property
    def client_id(self) -> Any:
        """The client that receives its events; None: all clients."""
        return self.extra_data.get("client_id")

    def to_json(self) -> list[Any]:
        """Return the prompt as /queue and /history show it."""
        return [self.number, self.prompt_id, self.prompt, self.extra_data, self.outputs]


_Entry = tuple[float, str, Prompt, dict[str, Any], QueuedPrompt]


class PromptQueue:
    """Pending prompts and the running one; `on_change` is called after every change.

    `put`, `take` and `delete` raise TypeError if two prompts cannot be sorted.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._heap: list[_Entry] = []
        self._numbers = itertools.count()
        self.running: QueuedPrompt | None = None

    @property
    def pending(self) -> list[QueuedPrompt]:
        """Pending prompts in heap order, which is not the order in which they will run."""
        return [entry[-1] for entry in self._heap]

    @property
    def remaining(self) -> int:
        """Number of prompts that are not finished, including the running one."""
        return len(self._heap) + (self.running is not None)

    def next_number(self) -> int:
        """Return the number for a prompt that has none of its own."""
        return next(self._numbers)

    def put(self, item: QueuedPrompt) -> None:
        heapq.heappush(self._heap, (item.number, item.prompt_id, item.prompt, item.extra_data, item))
        self._on_change()

    def take(self) -> QueuedPrompt | None:
        """Make the first pending prompt the running one and return it; None if no prompt is pending."""
        if not self._heap:
            return None
        self.running = heapq.heappop(self._heap)[-1]
        self._on_change()
        return self.running

    def finish(self) -> None:
        """Record that the running prompt has ended."""
        self.running = None
        self._on_change()

    def delete(self, prompt_ids: Collection[Any]) -> None:
        """Drop the pending prompts with these ids, without a trace in the history."""
        for prompt_id in prompt_ids:
            kept = [entry for entry in self._heap if entry[-1].prompt_id != prompt_id]
            if len(kept) < len(self._heap):
                self._replace(kept)

    def clear(self) -> None:
        """Drop every pending prompt."""
        self._replace([])

    def _replace(self, entries: list[_Entry]) -> None:
        heapq.heapify(entries)
        self._heap = entries
        self._on_change()


_LONGEST = 10_000

Entry = dict[str, Any]


class PromptHistory:
    """Entries by prompt id; only the newest 10,000 are kept."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def add(
        self, item: QueuedPrompt, succeeded: bool, outputs: dict[str, Any], meta: dict[str, Any], messages: list[Any]
    ) -> None:
        """Record how `item` ended; `messages` are the stamped events, as [type, data] pairs."""
        if len(self._entries) >= _LONGEST:
            del self._entries[next(iter(self._entries))]
        status = {"status_str": "success" if succeeded else "error", "completed": succeeded, "messages": messages}
        self._entries[item.prompt_id] = {"prompt": item.to_json(), "outputs": outputs, "status": status, "meta": meta}

    def get(self, prompt_id: str) -> dict[str, Entry]:
        """Return the entry under its id, or an empty dict while the prompt is queued, running or unknown."""
        return {prompt_id: self._entries[prompt_id]} if prompt_id in self._entries else {}

    def page(self, max_items: int | None, offset: int) -> dict[str, Entry]:
        """Return at most `max_items` entries starting at `offset`; a negative offset means the newest ones."""
        start = offset
        if offset < 0:
            start = max(0, len(self._entries) - max_items) if max_items is not None else 0
        stop = None if max_items is None else start + max(0, max_items)
        return dict(list(self._entries.items())[start:stop])

    def delete(self, prompt_ids: list[Any]) -> None:
        for prompt_id in prompt_ids:
            self._entries.pop(prompt_id, None)

    def clear(self) -> None:
        self._entries.clear()
