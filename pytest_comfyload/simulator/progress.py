"""How far each node of the running prompt is, as `progress_state` tells it: only nodes that have begun are listed."""

from __future__ import annotations

from typing import Any

__all__ = ["Progress"]


class Progress:
    """The states of one prompt's nodes."""

    def __init__(self, prompt_id: str) -> None:
        self._prompt_id = prompt_id
        self._nodes: dict[str, dict[str, Any]] = {}

    def start(self, node: str) -> None:
        self._set(node, 0.0, 1.0, "running")

    def step(self, node: str, value: int, steps: int) -> None:
        self._set(node, value, steps, "running")

    def finish(self, node: str) -> None:
        """The node is done; one that never began, since it was cached, counts as one of one."""
        highest = self._nodes[node]["max"] if node in self._nodes else 1
        self._set(node, highest, highest, "finished")

    def identity(self, node: str) -> dict[str, Any]:
        """The fields by which messages name a node."""
        return {
            "node_id": node,
            "prompt_id": self._prompt_id,
            "display_node_id": node,
            "parent_node_id": None,
            "real_node_id": node,
        }

    def to_json(self) -> dict[str, Any]:
        return {"prompt_id": self._prompt_id, "nodes": self._nodes}

    def _set(self, node: str, value: float, highest: float, state: str) -> None:
        self._nodes[node] = {"value": value, "max": highest, "state": state, **self.identity(node)}
