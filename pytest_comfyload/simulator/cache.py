"""ComfyUI's classic node cache: a result is found by what made it, and only for as long as each prompt asks for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pytest_comfyload.simulator.library import Prompt, is_link

__all__ = ["Cached", "NodeCache", "node_keys"]


@dataclass(frozen=True, slots=True)
class Cached:
    """What a node made: its output values, and what it showed the user, if anything."""

    outputs: tuple[Any, ...]
    ui: dict[str, Any] | None


def node_keys(prompt: Prompt, changed: Callable[[str, dict[str, Any]], str]) -> dict[str, str]:
    """The cache key of every node: a digest of class, literals and the keys of all it is linked to.

    `changed(class_type, inputs)` names what else the result depends on, such as the content of an uploaded file.
    """
    keys: dict[str, str] = {}
    for node_id in prompt:
        _key(prompt, node_id, changed, keys)
    return keys


def _key(prompt: Prompt, node_id: str, changed: Callable[[str, dict[str, Any]], str], keys: dict[str, str]) -> str:
    if node_id not in keys:
        keys[node_id] = "cycle"
        node = prompt[node_id]
        inputs = {
            name: ["link", _key(prompt, value[0], changed, keys), value[1]]
            if is_link(value) and value[0] in prompt
            else ["literal", value]
            for name, value in node.get("inputs", {}).items()
        }
        essence = [node["class_type"], changed(node["class_type"], node.get("inputs", {})), inputs]
        keys[node_id] = hashlib.sha256(json.dumps(essence, sort_keys=True).encode()).hexdigest()
    return keys[node_id]


class NodeCache:
    """Results by key; `keep` drops those that the prompt about to run has no key for."""

    def __init__(self) -> None:
        self._results: dict[str, Cached] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._results

    def get(self, key: str) -> Cached | None:
        return self._results.get(key)

    def put(self, key: str, result: Cached) -> None:
        self._results[key] = result

    def keep(self, keys: dict[str, str]) -> None:
        """Forget every result whose key is not among `keys`' values."""
        wanted = set(keys.values())
        self._results = {key: result for key, result in self._results.items() if key in wanted}

    def clear(self) -> None:
        self._results.clear()
