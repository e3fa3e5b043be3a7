"""Addresses of inputs such as `KSampler.steps`; the node is given by id, title or class, looked up in this order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pytest_comfyload.errors import UsageError, WorkflowError, nearest
from pytest_comfyload.redaction import hide_named
from pytest_comfyload.workflow.graph import InputRef, NodeGraph, link_of, title_of
from pytest_comfyload.workflow.object_info import InputSpec, spec_of_present

__all__ = ["AddressedInputs", "InputType", "Override", "parse_override"]

EVERY = "[*]"


@dataclass(frozen=True, slots=True)
class Override:
    """One `NODE.INPUT=VALUE` from the command line; the value is text until a server declares its type."""

    node: str
    input: str
    text: str

    @property
    def address(self) -> str:
        """`NODE.INPUT`, as `Workflow.with_inputs` expects it."""
        return f"{self.node}.{self.input}"

    def __str__(self) -> str:
        return f"{self.address}={self.text}"


def parse_override(text: str) -> Override:
    """Read `NODE.INPUT=VALUE`: the last dot before the first `=` ends the node. Raises UsageError."""
    address, equals, value = text.partition("=")
    hide_named({address: value})
    node, dot, name = address.strip().rpartition(".")
    if not (equals and dot and node and name):
        raise UsageError(f"{text!r} sets no input: write NODE.INPUT=VALUE, as in KSampler.steps=20")
    return Override(node, name, value)


@dataclass(frozen=True, slots=True)
class AddressedInputs:
    """The inputs of a workflow by address; `name` is the workflow's, for messages."""

    nodes: NodeGraph
    name: str

    def nodes_at(self, address: str) -> list[str]:
        """Return the ids of the nodes that `address` names, whether or not they have the input; may be empty."""
        return self._split(address)[0]

    def spots_at(self, address: str) -> list[InputRef]:
        """Return the inputs that `address` names. Raises WorkflowError if there are none or it is ambiguous."""
        ids, word, input_name = self._split(address)
        if not input_name:
            raise WorkflowError(f"{address!r} names no input of {self.name}: write NODE.INPUT, as in KSampler.steps")
        if not ids:
            raise WorkflowError(f"{self.name} has no node {word!r}; it has {nearest(word, self._names())}")
        if len(ids) > 1 and not word.endswith(EVERY):
            which = ", ".join(f"{node_id} {self._label(node_id)}" for node_id in ids)
            raise WorkflowError(
                f"{word!r} names {len(ids)} nodes of {self.name}: {which}; "
                f"choose one by id or title, or all with {word}{EVERY}.{input_name}"
            )
        return [self._existing(InputRef(node_id, input_name)) for node_id in ids]

    def type_at(self, spot: InputRef) -> InputType:
        """Return the declared type of `spot`; if undeclared, text is read as the type of the current value."""
        known = self.nodes.spec(spot)
        if known is not None:
            return InputType(known, known)
        return InputType(spec_of_present(self.nodes.value(spot)), InputSpec("ANY"))

    def expect_legal(self, address: str, takes: InputType, values: Sequence[Any]) -> None:
        """Raise WorkflowError for the first of `values` that is illegal for an input of this type."""
        if takes.surely_takes(values):
            return
        for value in values:
            source = link_of(value)
            if source is not None and source not in self.nodes.graph:
                near = nearest(source, self.nodes)
                raise WorkflowError(f"{address} = {value!r}: no node {source!r} to link to; nearest: {near}")
            try:
                json.dumps(takes.typed(value), allow_nan=False)
            except (TypeError, ValueError):
                raise WorkflowError(f"{address} = {value!r}: {takes.spec_for(value).wants(value)}") from None

    def _split(self, address: str) -> tuple[list[str], str, str]:
        """Return nodes, node part and input. Both parts may contain dots, so every dot is tried, from the right."""
        parts = address.split(".")
        splits = [(".".join(parts[:cut]), ".".join(parts[cut:])) for cut in range(len(parts) - 1, 0, -1)]
        for node, name in splits:
            if name and (ids := self._named(node.removesuffix(EVERY))):
                return ids, node, name
        return [], *(splits[0] if splits else (address, ""))

    def _named(self, word: str) -> list[str]:
        graph = self.nodes.graph
        if word in graph:
            return [word]
        titled = [node_id for node_id, node in graph.items() if word and title_of(node) == word]
        return titled or self.nodes.of_classes([word])

    def _names(self) -> list[str]:
        return [
            name
            for node_id, node in self.nodes.graph.items()
            for name in (title_of(node), node["class_type"], node_id)
            if name
        ]

    def _label(self, node_id: str) -> str:
        return repr(title_of(self.nodes.graph[node_id]) or self.nodes.class_of(node_id))

    def _existing(self, spot: InputRef) -> InputRef:
        legal = [*self.nodes.inputs_of(spot.node), *self.nodes.object_info.specs(self.nodes.class_of(spot.node))]
        if spot.input not in legal:
            has = f"it has {nearest(spot.input, legal)}" if legal else "it has none"
            raise WorkflowError(f"node {spot.node} {self._label(spot.node)} has no input {spot.input!r}; {has}")
        return spot


@dataclass(frozen=True, slots=True)
class InputType:
    """The type of an input: the spec by which text is converted, and the one for any other value."""

    text: InputSpec
    other: InputSpec

    def spec_for(self, value: object) -> InputSpec:
        return self.text if isinstance(value, str) else self.other

    def typed(self, value: Any) -> Any:
        """Return `value` as sent: a link unchanged, a literal converted to the input's type. Raises ValueError."""
        return list(value) if link_of(value) is not None else self.spec_for(value).convert(value)

    def surely_takes(self, values: Sequence[Any]) -> bool:
        """Return whether all values are known to be legal by their types; if False, each must be checked."""
        return all(spec.surely_takes(values) for spec in {self.text, self.other})
