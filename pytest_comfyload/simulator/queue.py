"""The one queue before the one executor: lowest number first, equal numbers by prompt id, as ComfyUI's heap does."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from pytest_comfyload.simulator.library import Prompt

__all__ = ["Item", "PromptQueue"]


@dataclass(frozen=True, slots=True)
class Item:
    """An accepted prompt; `accepted` is the virtual epoch time in seconds."""

    number: float
    prompt_id: str
    prompt: Prompt
    extra_data: dict[str, Any]
    outputs: list[str]
    accepted: float

    @property
    def client_id(self) -> Any:
        """Whom its events go to; None tells nobody in particular."""
        return self.extra_data.get("client_id")

    def to_json(self) -> list[Any]:
        """The item as /queue and /history show it."""
        return [self.number, self.prompt_id, self.prompt, self.extra_data, self.outputs]


class PromptQueue:
    """Pending prompts and the running one; `on_change` is called after every change of what is in it."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._heap: list[tuple[float, str, int, Item]] = []
        self._count = 0
        self.running: Item | None = None

    @property
    def pending(self) -> list[Item]:
        """Waiting prompts in heap order, which is not the order in which they will run."""
        return [entry[-1] for entry in self._heap]

    @property
    def remaining(self) -> int:
        """Prompts that are not finished, the running one included."""
        return len(self._heap) + (self.running is not None)

    def put(self, item: Item) -> None:
        self._count += 1
        heapq.heappush(self._heap, (item.number, item.prompt_id, self._count, item))
        self._on_change()

    def take(self) -> Item | None:
        """Make the first pending prompt the running one; None when nothing waits."""
        if not self._heap:
            return None
        self.running = heapq.heappop(self._heap)[-1]
        self._on_change()
        return self.running

    def finish(self) -> None:
        """The running prompt has ended."""
        self.running = None
        self._on_change()

    def delete(self, prompt_ids: Collection[Any]) -> None:
        """Drop the pending prompts with these ids; they leave no trace."""
        for prompt_id in prompt_ids:
            kept = [entry for entry in self._heap if entry[-1].prompt_id != prompt_id]
            if len(kept) < len(self._heap):
                self._replace(kept)

    def clear(self) -> None:
        """Drop every pending prompt."""
        self._replace([])

    def _replace(self, entries: list[tuple[float, str, int, Item]]) -> None:
        heapq.heapify(entries)
        self._heap = entries
        self._on_change()
