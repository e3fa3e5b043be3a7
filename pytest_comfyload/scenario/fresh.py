"""A node that must run gets input that no other prompt had: a seed, white space after a text, a draw, or a picture."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence, Set
from typing import Any

from pytest_comfyload.errors import WorkflowError
from pytest_comfyload.scenario.graph import Graph, Spot, link_of, spots
from pytest_comfyload.scenario.nearest import nearest
from pytest_comfyload.scenario.specs import spec_of

__all__ = ["expect_classes", "freshened", "helpless_message", "picture_spots", "white_space"]

_BITS = 32
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def expect_classes(graph: Graph, classes: Sequence[str], name: str) -> None:
    """Raises WorkflowError for a class of `must_run` that the workflow `name` has no node of."""
    there = {node["class_type"] for node in graph.values()}
    for class_type in classes:
        if class_type not in there:
            legal = nearest(class_type, sorted(there))
            raise WorkflowError(f"must_run: {name} has no node of class {class_type!r}; it has {legal}")


def freshened(
    graph: Graph,
    must_run: Sequence[str],
    unique: Set[str],
    drawn: Set[str],
    texts: Sequence[Spot],
    pictures: Sequence[Spot],
) -> tuple[frozenset[Spot], tuple[str, ...]]:
    """Which of `texts` and `pictures` to change so that every node of `must_run` is fed something new; and the nodes
    beyond help.

    `unique` are the nodes that are new in every prompt as it is, `drawn` those with values that may come again.
    """
    marked: set[Spot] = set()
    helpless = []
    for node_id in _nodes_of(graph, must_run):
        feeding = _upstream(graph, node_id)
        if feeding & unique:
            continue
        near = [spot for spot in texts if spot.node in feeding]
        if not near and not feeding & drawn:
            near = [spot for spot in pictures if spot.node in feeding]
            helpless += [] if near else [node_id]
        marked.update(near[:1])
    return frozenset(marked), tuple(helpless)


def picture_spots(graph: Graph, object_info: Mapping[str, Any] | None) -> list[Spot]:
    """Where a still picture in a server's folders is named, going by the ending; set by the user or not."""
    return [spot for spot, value in spots(graph) if _names_picture(value) and _takes_file(graph, spot, object_info)]


def white_space(rng: random.Random) -> str:
    """A mark that text encoders skip and a server's cache does not."""
    return "".join(" \n"[int(bit)] for bit in f"{rng.getrandbits(_BITS):0{_BITS}b}")


def helpless_message(graph: Graph, node_id: str) -> str:
    """What to do about a node that nothing new can be fed to."""
    node: Mapping[str, Any] = graph[node_id]
    class_type = node["class_type"]
    literal = next((name for name, value in node["inputs"].items() if link_of(value) is None), "input")
    return (
        f"must_run: nothing that feeds node {node_id} {class_type} can be varied (no seed, text or picture), so that "
        f"the cache would answer for it; give values to draw: inputs={{'{class_type}.{literal}': [..., ...]}}"
    )


def _names_picture(value: object) -> bool:
    return isinstance(value, str) and value.partition(" [")[0].lower().endswith(_PICTURES)


def _takes_file(graph: Graph, spot: Spot, object_info: Mapping[str, Any] | None) -> bool:
    spec = spec_of(object_info, graph[spot.node]["class_type"], spot.input)
    return object_info is None or (spec is not None and spec.upload)


def _nodes_of(graph: Graph, classes: Sequence[str]) -> list[str]:
    return [node_id for node_id, node in graph.items() if node["class_type"] in classes]


def _upstream(graph: Graph, node_id: str) -> set[str]:
    """The node and all that feeds it."""
    pending, seen = [node_id], set[str]()
    while pending:
        here = pending.pop()
        if here not in seen:
            seen.add(here)
            pending += [source for value in graph[here]["inputs"].values() if (source := link_of(value)) is not None]
    return seen
