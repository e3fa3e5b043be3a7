"""Graphs as POST /prompt takes them: node id -> class_type, inputs, _meta. They are never mutated.

A `NodeGraph` adds the links between nodes, and a server's declarations of their inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

from pytest_comfyload.workflow.object_info import UNKNOWN, InputSpec, ObjectInfo

__all__ = ["Graph", "InputRef", "NodeGraph", "link_of", "replaced", "spots", "title_of"]

Graph: TypeAlias = Mapping[str, Mapping[str, Any]]


class InputRef(NamedTuple):
    """One input of one node."""

    node: str
    input: str

    def __str__(self) -> str:
        return f"{self.node}.{self.input}"


def spots(graph: Graph) -> Iterator[tuple[InputRef, Any]]:
    """Yield every input of every node, with its value."""
    for node_id, node in graph.items():
        for name, value in node["inputs"].items():
            yield InputRef(node_id, name), value


def link_of(value: object) -> str | None:
    """Return the id of the node that `value` links to, None for a literal; same rule as in ComfyUI."""
    match value:
        case [str(node_id), int() | float()]:
            return node_id
    return None


def title_of(node: Mapping[str, Any]) -> str:
    """Return the title that the user gave the node; empty if there is none or it repeats the class."""
    title = node.get("_meta", {}).get("title")
    return title if isinstance(title, str) and title != node["class_type"] else ""


def replaced(graph: Graph, values: Mapping[InputRef, Any]) -> dict[str, Any]:
    """Return the graph with the given inputs replaced; unchanged nodes are shared."""
    changed: dict[str, dict[str, Any]] = {}
    for spot, value in values.items():
        changed.setdefault(spot.node, {})[spot.input] = value
    new = dict(graph)
    for node_id, inputs in changed.items():
        node = graph[node_id]
        new[node_id] = {**node, "inputs": {**node["inputs"], **inputs}}
    return new


class NodeGraph:
    """The nodes of a graph: their inputs, their links, and a server's declarations of their classes."""

    def __init__(self, graph: Graph, object_info: ObjectInfo = UNKNOWN) -> None:
        self.graph = graph
        self.object_info = object_info

    def __iter__(self) -> Iterator[str]:
        return iter(self.graph)

    def class_of(self, node_id: str) -> str:
        """Return the class of a node."""
        return str(self.graph[node_id]["class_type"])

    def of_classes(self, classes: Sequence[str]) -> list[str]:
        """Return the ids of the nodes of these classes."""
        return [node_id for node_id in self if self.class_of(node_id) in classes]

    def inputs_of(self, node_id: str) -> Mapping[str, Any]:
        """Return the inputs of a node in the graph, by name."""
        inputs: Mapping[str, Any] = self.graph[node_id]["inputs"]
        return inputs

    def value(self, spot: InputRef) -> Any:
        """Return the literal or link at `spot`; None if the graph does not give that input."""
        return self.inputs_of(spot.node).get(spot.input)

    def source(self, spot: InputRef) -> str | None:
        """Return the id of the node that `spot` is linked to; None for a literal."""
        return link_of(self.value(spot))

    def spec(self, spot: InputRef) -> InputSpec | None:
        """Return the declaration of `spot`; None if it is unknown."""
        return self.object_info.spec(self.class_of(spot.node), spot.input)

    def take(self, kind: str, inputs: Iterable[InputRef]) -> bool:
        """Return whether each of `inputs` is either declared with this `kind` or not declared."""
        return all(spec is None or spec.kind == kind for spec in map(self.spec, inputs))

    def upstream(self, node_ids: Iterable[str]) -> frozenset[str]:
        """Return these nodes and all that feed them."""
        return _closure(node_ids, self._sources)

    def downstream(self, node_ids: Iterable[str]) -> frozenset[str]:
        """Return these nodes and all that they feed."""
        return _closure(node_ids, self._fed)

    @cached_property
    def needed(self) -> frozenset[str]:
        """The nodes that a server executes: those that an output depends on; others are left over from editing."""
        linked = {source for sources in self._sources.values() for source in sources}
        known = {node_id: self.object_info.is_output(self.class_of(node_id)) for node_id in self}
        # If the class is unknown, a node that feeds no other node counts as an output.
        return self.upstream(
            node_id
            for node_id, is_output in known.items()
            if is_output or (is_output is None and node_id not in linked)
        )

    def literal_spot(
        self, spot: InputRef, holds: Callable[[object], bool], carries: Callable[[str], bool]
    ) -> InputRef | None:
        """Find the literal that feeds `spot`: its own, or one found by following links upstream.

        In a linked node, candidates are the inputs that are links or literals accepted by `holds`. The search goes on
        with the one whose name `carries` accepts, or with the only candidate. Return None if none or several qualify.
        """
        seen: set[InputRef] = set()
        here: InputRef | None = spot
        while here is not None and here not in seen:
            seen.add(here)
            source = self.source(here)
            if source is None:
                return here if holds(self.value(here)) else None
            here = self._feeding_input(source, holds, carries)
        return None

    def _feeding_input(
        self, node_id: str, holds: Callable[[object], bool], carries: Callable[[str], bool]
    ) -> InputRef | None:
        fitting = [
            name for name, value in self.inputs_of(node_id).items() if holds(value) or link_of(value) is not None
        ]
        named = [name for name in fitting if carries(name)]
        chosen = named or fitting
        return InputRef(node_id, chosen[0]) if len(chosen) == 1 else None

    @cached_property
    def _sources(self) -> dict[str, list[str]]:
        """The nodes that each node links to."""
        return {
            node_id: [source for value in self.inputs_of(node_id).values() if (source := link_of(value)) is not None]
            for node_id in self
        }

    @cached_property
    def _fed(self) -> dict[str, list[str]]:
        """The nodes that link to each node."""
        fed: dict[str, list[str]] = {node_id: [] for node_id in self}
        for node_id, sources in self._sources.items():
            for source in sources:
                fed[source].append(node_id)
        return fed


def _closure(node_ids: Iterable[str], neighbours: Mapping[str, Iterable[str]]) -> frozenset[str]:
    pending, seen = list(node_ids), set[str]()
    while pending:
        here = pending.pop()
        if here not in seen:
            seen.add(here)
            pending += neighbours.get(here, ())
    return frozenset(seen)
