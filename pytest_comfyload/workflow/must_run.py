"""Selection of the nodes of a prompt that do new work, and of the inputs to change for the classes of `must_run`.

A node is *fresh* in a prompt if one of its inputs, or of the nodes that feed it, has a value that no other prompt of
any run had: a seed, a text unique to the prompt, a value that contains the seed, a variant of a picture. Its result
can come from a server's cache only if that server has executed the same input before. Inputs that the user draws from
values that may recur (one of two checkpoints) are not fresh, nor is `filename_prefix`, since no work depends on the
name of a file.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from weakref import WeakValueDictionary

from pytest_comfyload.errors import WorkflowError, nearest
from pytest_comfyload.workflow.graph import InputRef, NodeGraph, link_of, spots
from pytest_comfyload.workflow.slots import Slots

__all__ = ["NewWork", "expect_classes", "new_work", "unsatisfied_message", "with_white_space"]

# 30 bits in few tokens: language models' tokenizers have one token for each run of spaces up to this length.
_RUNS, _LONGEST = 5, 64
_known: WeakValueDictionary[frozenset[str], frozenset[str]] = WeakValueDictionary()


@dataclass(frozen=True, slots=True)
class NewWork:
    """The work that a prompt makes a server do.

    Args:
        fresh: Ids of the nodes that must run, since their input is new.
        needed: Ids of the nodes that an output depends on.
        marked: Texts that need a unique ending, so that a node of `must_run` gets new input.
        pictures: Inputs where each prompt needs a variant of the picture, for the same purpose.
        unsatisfied: Ids of nodes of `must_run` that cannot be given new input.
    """

    fresh: frozenset[str]
    needed: frozenset[str]
    marked: tuple[InputRef, ...] = ()
    pictures: tuple[InputRef, ...] = ()
    unsatisfied: tuple[str, ...] = ()


def new_work(slots: Slots, must_run: Sequence[str], unique: Set[InputRef], drawn: Set[str]) -> NewWork:
    """Find what is new in a prompt, and what to change so that every `must_run` node gets new input.

    Args:
        slots: The slots of the prompt's graph.
        must_run: Node classes.
        unique: The inputs that are already new in every prompt.
        drawn: The nodes with drawn values, which may recur.
    """
    nodes, pictures = slots.nodes, slots.pictures()
    marks, unsatisfied = _select_inputs(slots, pictures, must_run, {spot.node for spot in unique}, drawn)
    varied = tuple(spot for spot in pictures if spot in marks)
    roots = {spot.node for spot in unique | marks if spot.input != "filename_prefix"}
    roots |= {*nodes.of_classes(must_run)} - {*unsatisfied}
    return NewWork(
        fresh=_shared(nodes.downstream(roots)),
        needed=_shared(nodes.needed),
        marked=tuple(sorted(marks - {*varied})),
        pictures=varied,
        unsatisfied=unsatisfied,
    )


def _shared(node_ids: frozenset[str]) -> frozenset[str]:
    """Return an equal set that already exists, if any, to save memory.

    A load may have thousands of texts with inputs of their own, each of which makes a separate workflow.
    """
    return _known.setdefault(node_ids, node_ids)


def _select_inputs(
    slots: Slots, pictures: Sequence[InputRef], must_run: Sequence[str], unique: Set[str], drawn: Set[str]
) -> tuple[frozenset[InputRef], tuple[str, ...]]:
    """Select the texts and `pictures` to change so that every node of `must_run` gets new input.

    `unique` are the nodes that are already new in every prompt. Also return the nodes that have no such input.
    """
    texts = slots.free_texts() if must_run else []
    marked: set[InputRef] = set()
    unsatisfied = []
    for node_id in slots.nodes.of_classes(must_run):
        feeding = slots.nodes.upstream([node_id])
        if feeding & unique:
            continue
        near = [spot for spot in texts if spot.node in feeding]
        if not near and not feeding & drawn:
            near = [spot for spot in pictures if spot.node in feeding]
            unsatisfied += [] if near else [node_id]
        marked.update(near[:1])
    return frozenset(marked), tuple(unsatisfied)


def expect_classes(nodes: NodeGraph, classes: Sequence[str], name: str) -> None:
    """Raise WorkflowError for a class of `must_run` of which the workflow `name` has no node."""
    there = set(map(nodes.class_of, nodes))
    for class_type in classes:
        if class_type not in there:
            legal = nearest(class_type, sorted(there))
            raise WorkflowError(f"must_run: {name} has no node of class {class_type!r}; it has {legal}")


def unsatisfied_message(nodes: NodeGraph, node_id: str) -> str:
    """Return the message about a node that cannot get new input."""
    return (
        f"must_run: nothing that feeds node {node_id} {nodes.class_of(node_id)} can be varied (no seed, text or "
        "picture), so its result would come from the cache; give values to draw: "
        f"inputs={{'{next(_candidates(nodes, node_id), 'NODE.INPUT')}': [..., ...]}}"
    )


def _candidates(nodes: NodeGraph, node_id: str) -> Iterator[str]:
    """Yield the literal inputs of a node, then the numbers that nodes which feed it have."""
    for name, value in nodes.inputs_of(node_id).items():
        if link_of(value) is None:
            yield f"{nodes.class_of(node_id)}.{name}"
    feeding = nodes.upstream([node_id])
    for spot, value in spots(nodes.graph):
        if spot.node in feeding and isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{nodes.class_of(spot.node)}.{spot.input}"


def with_white_space(text: str, rng: random.Random) -> str:
    """Return `text` with trailing white space that makes it a different text for a server's cache.

    The tokenizers of CLIP and T5 drop it; those of language models (Llama, Qwen) turn it into four to nine tokens.
    """
    return text + "\n".join(" " * rng.randint(1, _LONGEST) for _ in range(_RUNS))
