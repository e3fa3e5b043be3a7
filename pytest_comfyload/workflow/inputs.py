"""Inputs are addressed as people know them: `KSampler.steps`, by the node's id, title or class, in this order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_comfyload.errors import UsageError, WorkflowError, nearest
from pytest_comfyload.redaction import hide_named
from pytest_comfyload.workflow.graph import Graph, InputRef, link_of, title_of, value_at
from pytest_comfyload.workflow.object_info import InputSpec, ObjectInfo, spec_of_present

__all__ = ["Override", "nodes_at", "parse_override", "placed", "spots_at"]

EVERY = "[*]"


@dataclass(frozen=True, slots=True)
class Override:
    """One `NODE.INPUT=VALUE` of the command line; the value is text until a server says what it means."""

    node: str
    input: str
    text: str

    @property
    def address(self) -> str:
        """`NODE.INPUT`, as `Workflow.with_inputs` takes it."""
        return f"{self.node}.{self.input}"

    def __str__(self) -> str:
        return f"{self.address}={self.text}"


def parse_override(text: str) -> Override:
    """Reads `NODE.INPUT=VALUE`: the last dot before the first `=` ends the node. Raises UsageError."""
    address, equals, value = text.partition("=")
    hide_named({address: value})
    node, dot, name = address.strip().rpartition(".")
    if not (equals and dot and node and name):
        raise UsageError(f"{text!r} sets no input: write NODE.INPUT=VALUE, as in KSampler.steps=20")
    return Override(node, name, value)


def nodes_at(graph: Graph, address: str) -> list[str]:
    """The ids of the nodes that `address` speaks of, whether they have the input or not; empty if none."""
    return _split(graph, address)[0]


def placed(graph: Graph, values: Mapping[str, Any], object_info: ObjectInfo, name: str) -> dict[InputRef, Any]:
    """Address -> value as spot -> typed value. `name` is the workflow's, for messages. Raises WorkflowError."""
    return {
        spot: _typed(graph, spot, value, object_info, address)
        for address, value in values.items()
        for spot in spots_at(graph, address, object_info, name)
    }


def _split(graph: Graph, address: str) -> tuple[list[str], str, str]:
    """Nodes, node part and input; titles and input names may hold dots, so that each dot is tried, from the right."""
    parts = address.split(".")
    splits = [(".".join(parts[:cut]), ".".join(parts[cut:])) for cut in range(len(parts) - 1, 0, -1)]
    for node, name in splits:
        if name and (ids := _named(graph, node.removesuffix(EVERY))):
            return ids, node, name
    return [], *(splits[0] if splits else (address, ""))


def _named(graph: Graph, word: str) -> list[str]:
    if word in graph:
        return [word]
    titled = [node_id for node_id, node in graph.items() if word and title_of(node) == word]
    return titled or [node_id for node_id, node in graph.items() if node["class_type"] == word]


def spots_at(graph: Graph, address: str, object_info: ObjectInfo, name: str) -> list[InputRef]:
    """The inputs that `address` speaks of, each there. `name` is the workflow's. Raises WorkflowError."""
    ids, word, input_name = _split(graph, address)
    if not input_name:
        raise WorkflowError(f"{address!r} names no input of {name}: write NODE.INPUT, as in KSampler.steps")
    if not ids:
        raise WorkflowError(f"{name} has no node {word!r}; it has {nearest(word, _names(graph))}")
    if len(ids) > 1 and not word.endswith(EVERY):
        which = ", ".join(f"{node_id} {_label(graph[node_id])}" for node_id in ids)
        raise WorkflowError(
            f"{word!r} names {len(ids)} nodes of {name}: {which}; "
            f"choose one by id or title, or all with {word}{EVERY}.{input_name}"
        )
    return [_existing(graph, InputRef(node_id, input_name), object_info) for node_id in ids]


def _names(graph: Graph) -> list[str]:
    return [name for node_id, node in graph.items() for name in (title_of(node), node["class_type"], node_id) if name]


def _label(node: Mapping[str, Any]) -> str:
    return repr(title_of(node) or node["class_type"])


def _existing(graph: Graph, spot: InputRef, object_info: ObjectInfo) -> InputRef:
    node = graph[spot.node]
    legal = [*node["inputs"], *object_info.specs(node["class_type"])]
    if spot.input not in legal:
        has = f"it has {nearest(spot.input, legal)}" if legal else "it has none"
        raise WorkflowError(f"node {spot.node} {_label(node)} has no input {spot.input!r}; {has}")
    return spot


def _typed(graph: Graph, spot: InputRef, value: Any, object_info: ObjectInfo, address: str) -> Any:
    source = link_of(value)
    if source is not None:
        return _link(graph, value, source, address)
    spec = _spec(graph, spot, value, object_info)
    try:
        json.dumps(typed := spec.convert(value), allow_nan=False)
    except (TypeError, ValueError):
        raise WorkflowError(f"{address} = {value!r}: {spec.wants(value)}") from None
    return typed


def _link(graph: Graph, value: Any, source: str, address: str) -> list[Any]:
    if source not in graph:
        raise WorkflowError(f"{address} = {value!r}: no node {source!r} to link to; nearest: {nearest(source, graph)}")
    return list(value)


def _spec(graph: Graph, spot: InputRef, value: Any, object_info: ObjectInfo) -> InputSpec:
    """The server's word; without it, text is read like the present value and anything else is taken as it is."""
    known = object_info.spec(graph[spot.node]["class_type"], spot.input)
    if known is not None:
        return known
    return spec_of_present(value_at(graph, spot)) if isinstance(value, str) else InputSpec("ANY")
