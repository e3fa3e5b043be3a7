"""Which nodes of a prompt do new work, and what is changed so that the classes of `must_run` do.

A node is *fresh* in a prompt if an input of it, or of a node that feeds it, is one that no other prompt of any run had:
a seed, a text of the prompt's own, a value that names the seed, a variant of a picture. From a server's cache it can
only come where that server has executed the same input before. Not fresh are inputs that the user draws from values
that may come again (a checkpoint out of two), and `filename_prefix`, since no work depends on the name of a file.
"""

from __future__ import annotations

import random
from collections.abc import Sequence, Set
from dataclasses import dataclass
from weakref import WeakValueDictionary

from pytest_comfyload.errors import WorkflowError, nearest
from pytest_comfyload.workflow.graph import InputRef, NodeGraph, link_of
from pytest_comfyload.workflow.slots import Slots

__all__ = ["NewWork", "expect_classes", "new_work", "unsatisfied_message", "with_white_space"]

# 30 bits in few tokens: language models' tokenizers have one for each run of spaces up to this length.
_RUNS, _LONGEST = 5, 64
_known: WeakValueDictionary[frozenset[str], frozenset[str]] = WeakValueDictionary()


@dataclass(frozen=True, slots=True)
class NewWork:
    """What a prompt makes a server do.

    Args:
        fresh: Ids of the nodes that must run, since their input is new.
        needed: Ids of the nodes that an output is made of.
        marked: Texts that need an end of their own, so that a node of `must_run` gets new input.
        pictures: Where each prompt needs a variant of the picture, for the same end.
        unsatisfied: Ids of nodes of `must_run` that nothing new can be fed to.
    """

    fresh: frozenset[str]
    needed: frozenset[str]
    marked: tuple[InputRef, ...] = ()
    pictures: tuple[InputRef, ...] = ()
    unsatisfied: tuple[str, ...] = ()


def new_work(slots: Slots, must_run: Sequence[str], unique: Set[InputRef], drawn: Set[str]) -> NewWork:
    """Find what is new in a prompt, and what to change so that every node of the classes `must_run` is fed something
    new.

    Args:
        slots: Those of the prompt's graph.
        must_run: Classes.
        unique: The inputs that are new in every prompt as it is.
        drawn: The nodes with values that may come again.
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
    """Return an equal set that is there already, if any: a load may have thousands of texts with inputs of their own,
    each of which makes a workflow of its own.
    """
    return _known.setdefault(node_ids, node_ids)


def _select_inputs(
    slots: Slots, pictures: Sequence[InputRef], must_run: Sequence[str], unique: Set[str], drawn: Set[str]
) -> tuple[frozenset[InputRef], tuple[str, ...]]:
    """Select the texts and `pictures` to change so that every node of `must_run` gets new input.

    `unique` are the nodes that are new in every prompt as it is. Also return the nodes for which there is no such
    input.
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
    """Raises WorkflowError for a class of `must_run` that the workflow `name` has no node of."""
    there = set(map(nodes.class_of, nodes))
    for class_type in classes:
        if class_type not in there:
            legal = nearest(class_type, sorted(there))
            raise WorkflowError(f"must_run: {name} has no node of class {class_type!r}; it has {legal}")


def unsatisfied_message(nodes: NodeGraph, node_id: str) -> str:
    """Return the message about a node that can get no new input."""
    class_type = nodes.class_of(node_id)
    literal = next((name for name, value in nodes.inputs_of(node_id).items() if link_of(value) is None), "input")
    return (
        f"must_run: nothing that feeds node {node_id} {class_type} can be varied (no seed, text or picture), so its "
        f"result would come from the cache; give values to draw: inputs={{'{class_type}.{literal}': [..., ...]}}"
    )


def with_white_space(text: str, rng: random.Random) -> str:
    """Return `text` with white space at its end that makes it another text for a server's cache.

    The tokenizers of CLIP and T5 drop it; those of language models (Llama, Qwen) make four to nine tokens of it.
    """
    return text + "\n".join(" " * rng.randint(1, _LONGEST) for _ in range(_RUNS))
