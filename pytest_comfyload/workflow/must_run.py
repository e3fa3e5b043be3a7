"""Which nodes of a prompt do new work, and what is changed so that those that the user names do.

A node is *fresh* in a prompt if an input of it, or of a node that feeds it, is one that no other prompt of any run had:
a seed, a text of the prompt's own, a value that names the seed, a variant of a picture. From a server's cache it can
only come where that server has executed the same input before. Not fresh are inputs that the user draws from values
that may come again (a checkpoint out of two), and `filename_prefix`, since no work depends on the name of a file.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence, Set
from typing import Any

from pytest_comfyload.errors import WorkflowError, nearest
from pytest_comfyload.workflow.graph import Graph, InputRef, link_of, spots, upstream
from pytest_comfyload.workflow.object_info import ObjectInfo

__all__ = ["expect_classes", "freshened", "helpless_message", "needed", "nodes_of", "picture_spots", "with_white_space"]

# 30 bits in few tokens: language models' tokenizers have one for each run of spaces up to this length.
_RUNS, _LONGEST = 5, 64
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
    texts: Sequence[InputRef],
    pictures: Sequence[InputRef],
) -> tuple[frozenset[InputRef], tuple[str, ...]]:
    """Which of `texts` and `pictures` to change so that every node of `must_run` is fed something new; and the nodes
    beyond help.

    `unique` are the nodes that are new in every prompt as it is, `drawn` those with values that may come again.
    """
    marked: set[InputRef] = set()
    helpless = []
    for node_id in nodes_of(graph, must_run):
        feeding = upstream(graph, [node_id])
        if feeding & unique:
            continue
        near = [spot for spot in texts if spot.node in feeding]
        if not near and not feeding & drawn:
            near = [spot for spot in pictures if spot.node in feeding]
            helpless += [] if near else [node_id]
        marked.update(near[:1])
    return frozenset(marked), tuple(helpless)


def picture_spots(graph: Graph, object_info: ObjectInfo) -> list[InputRef]:
    """Where a still picture in a server's folders is named, going by the ending; set by the user or not."""
    return [spot for spot, value in spots(graph) if _names_picture(value) and _takes_file(graph, spot, object_info)]


def with_white_space(text: str, rng: random.Random) -> str:
    """`text` with an end that a server's cache takes for another text.

    The tokenizers of CLIP and T5 drop it; those of language models (Llama, Qwen) make four to nine tokens of it.
    """
    return text + "\n".join(" " * rng.randint(1, _LONGEST) for _ in range(_RUNS))


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


def _takes_file(graph: Graph, spot: InputRef, object_info: ObjectInfo) -> bool:
    spec = object_info.spec(graph[spot.node]["class_type"], spot.input)
    return not object_info.known or (spec is not None and spec.upload)


def nodes_of(graph: Graph, classes: Sequence[str]) -> list[str]:
    """The ids of the nodes of these classes."""
    return [node_id for node_id, node in graph.items() if node["class_type"] in classes]


def needed(graph: Graph, object_info: ObjectInfo) -> frozenset[str]:
    """The nodes that a server executes: those that an output is made of; the others are left over from editing."""
    linked = {link_of(value) for _, value in spots(graph)}
    known = {node_id: object_info.is_output(node["class_type"]) for node_id, node in graph.items()}
    # What feeds no other node is an output as far as the graph tells.
    outputs = [each for each, output in known.items() if output or (output is None and each not in linked)]
    return upstream(graph, outputs)
