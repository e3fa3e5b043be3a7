"""What became of each finished prompt, in order of completion, as /history tells it."""

from __future__ import annotations

from typing import Any

from pytest_comfyload.simulator.queue import Item

__all__ = ["History"]

_LONGEST = 10_000

Entry = dict[str, Any]


class History:
    """Entries by prompt id; the oldest go when there are more than 10,000."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def add(
        self, item: Item, succeeded: bool, outputs: dict[str, Any], meta: dict[str, Any], messages: list[Any]
    ) -> None:
        """Record how `item` ended; `messages` are the stamped events, as [type, data] pairs."""
        if len(self._entries) >= _LONGEST:
            del self._entries[next(iter(self._entries))]
        status = {"status_str": "success" if succeeded else "error", "completed": succeeded, "messages": messages}
        self._entries[item.prompt_id] = {"prompt": item.to_json(), "outputs": outputs, "status": status, "meta": meta}

    def get(self, prompt_id: str) -> dict[str, Entry]:
        """The entry under its id, or nothing at all while the prompt is queued, running or unknown."""
        return {prompt_id: self._entries[prompt_id]} if prompt_id in self._entries else {}

    def page(self, max_items: int | None, offset: int) -> dict[str, Entry]:
        """At most `max_items` entries from `offset` on; a negative offset means the newest ones."""
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
