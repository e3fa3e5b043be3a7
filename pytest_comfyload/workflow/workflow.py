"""Workflow: an immutable graph with a name, whose methods return changed copies."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pytest_comfyload.errors import WorkflowError
from pytest_comfyload.redaction import hide_named
from pytest_comfyload.scenario.extra_data import hide_extra_data
from pytest_comfyload.workflow.api_format import load_graph
from pytest_comfyload.workflow.graph import Graph, InputRef, NodeGraph, replaced, spots
from pytest_comfyload.workflow.input_values import ChoiceInput, DistributionInput, read_setting
from pytest_comfyload.workflow.inputs import AddressedInputs
from pytest_comfyload.workflow.must_run import expect_classes, unsatisfied_message
from pytest_comfyload.workflow.object_info import UNKNOWN, ObjectInfo
from pytest_comfyload.workflow.slots import Slots
from pytest_comfyload.workflow.template import DrawnPrompt, PromptTemplate
from pytest_comfyload.workflow.texts import PromptText

__all__ = ["Workflow"]

MODEL_INPUTS = {
    "ckpt_name", "unet_name", "vae_name", "lora_name", "control_net_name", "clip_name", "model_name",
}  # fmt: skip
MODEL_SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth", ".bin", ".gguf", ".onnx", ".engine")


@dataclass(frozen=True)
class Workflow:
    """A workflow in API format. `kept` are the inputs that the user set; `vary` changes them only where they are drawn.

    `graph` has the first value of each setting; nodes of the classes `must_run` get fresh input in each prompt, which
    may be one of the `variants` of a picture. `extra_data` came with the graph and is sent with each prompt.
    `text_spots`: the inputs for prompt texts, if the user gave some. `object_info`: declarations of its node classes.
    """

    name: str
    graph: Graph
    kept: frozenset[InputRef] = frozenset()
    settings: tuple[ChoiceInput | DistributionInput, ...] = ()
    must_run: tuple[str, ...] = ()
    variants: Mapping[str, Sequence[str]] = field(default_factory=dict)
    extra_data: Mapping[str, Any] = field(default_factory=dict, repr=False)
    text_spots: tuple[InputRef, ...] | None = None
    object_info: ObjectInfo = field(default=UNKNOWN, repr=False, compare=False)

    @classmethod
    def load(cls, source: str | os.PathLike[str] | Mapping[str, Any], *, root: Path | None = None) -> Workflow:
        """Load a workflow.

        `source`: the name of a shipped workflow, the path of a .json file (relative to `root`, then to the working
        directory), or a dict. Raises WorkflowError.
        """
        name, graph, extra_data = load_graph(source, root)
        hide_extra_data(extra_data)
        for node in graph.values():
            hide_named(node["inputs"])
        return cls(name, graph, extra_data=extra_data)

    def on(self, object_info: ObjectInfo) -> Workflow:
        """Return the workflow with a server's declarations of its node classes."""
        return replace(self, object_info=object_info)

    @property
    def classes(self) -> frozenset[str]:
        """The classes of its nodes."""
        return frozenset(map(self.nodes.class_of, self.nodes))

    def matches(self, address: str) -> list[str]:
        """Return the ids of the nodes that `NODE.INPUT` names; empty if this workflow has none."""
        return self._inputs.nodes_at(address)

    def spots_at(self, address: str) -> list[InputRef]:
        """Return the inputs that `NODE.INPUT` names. Raises WorkflowError."""
        return self._inputs.spots_at(address)

    def with_inputs(self, values: Mapping[str, Any]) -> Workflow:
        """Return it with other inputs: `{"KSampler.steps": 20}`, by id, title or class; `"KSampler[*].steps"` for all.

        Each prompt draws from a list, a dict of value to weight, or a distribution. Text is converted to the type that
        the server declares, or to the type of the current value if no server was queried.
        Raises WorkflowError.
        """
        hide_named(values)
        settings = {setting.address: setting for setting in self.settings}
        for address, value in values.items():
            settings.pop(address, None)  # the last one set comes last
            settings[address] = read_setting(self._inputs, address, value)
        firsts = {spot: value for setting in settings.values() for spot, value in setting.first.items()}
        return replace(
            self,
            graph=replaced(self.graph, firsts),
            kept=self.kept | firsts.keys(),
            settings=tuple(settings.values()),
        )

    def with_text(self, text: PromptText) -> Workflow:
        """Return it with the inputs that come with a prompt text. Raises WorkflowError, naming the text's origin."""
        try:
            new = self.with_inputs(text.inputs) if text.inputs else self
        except WorkflowError as error:
            raise WorkflowError(f"{text.origin}: {error}") from None
        places = set(self.text_spots or ()) - self.kept
        if places and places <= new.kept:
            raise WorkflowError(f"{text.origin}: its text and its {', '.join(map(str, places))} are for the same input")
        return new

    def taking_texts(self, inputs: Iterable[str], *, optional: bool = False) -> Workflow:
        """Return it with the inputs for the texts of `prompts`. `inputs` are the addresses that the user also set.

        Raises:
            WorkflowError: There is no such input (unless `optional`), or there are several to choose from.
        """
        kept = {spot for address in inputs for spot in self.spots_at(address)}
        found, several = Slots(self.nodes, kept).text_places()
        if several or not (found or optional):
            raise WorkflowError(_unplaced(self, kept, several))
        return replace(self, text_spots=found)

    def always_running(self, classes: Sequence[str], *, draws: bool = False) -> Workflow:
        """Return it with new input for every node of these classes in each prompt.

        `draws`: prompts bring further inputs of their own, so what is new in them is not known yet.
        Raises WorkflowError for a class that the workflow lacks, or whose nodes cannot be given new input.
        """
        expect_classes(self.nodes, classes, self.name)
        fresh = replace(self, must_run=tuple(classes))
        unsatisfied = fresh.vary(random.Random(0), text="", filename_prefix="").unsatisfied
        if unsatisfied and not draws:
            raise WorkflowError(unsatisfied_message(self.nodes, unsatisfied[0]))
        return fresh

    def vary(self, rng: random.Random, *, text: str | None, filename_prefix: str, **more: Any) -> DrawnPrompt:
        """Draw the next prompt: new seeds, `text` as the positive prompt, outputs saved under `filename_prefix`.

        `more`: further arguments of `PromptTemplate.draw`.
        """
        return self.template.draw(rng, text=text, filename_prefix=filename_prefix, **more)

    @cached_property
    def template(self) -> PromptTemplate:
        """The template that draws the prompts."""
        return PromptTemplate(
            self.name,
            self.nodes,
            kept=self.kept,
            settings=self.settings,
            must_run=self.must_run,
            variants=self.variants,
            extra_data=self.extra_data,
            text_spots=self.text_spots,
        )

    @cached_property
    def nodes(self) -> NodeGraph:
        """The graph with the declarations of its classes."""
        return NodeGraph(self.graph, self.object_info)

    @property
    def _inputs(self) -> AddressedInputs:
        return AddressedInputs(self.nodes, self.name)

    def node_counts(self) -> dict[str, int]:
        """Return how many nodes of each class a server executes for one prompt if nothing is cached."""
        return dict(Counter(map(self.nodes.class_of, sorted(self.nodes.needed))))

    def pictures_to_vary(self) -> Mapping[str, str]:
        """Return the pictures of which every prompt needs its own variant, by `id.input`."""
        return self.vary(random.Random(0), text="", filename_prefix="").pictures

    def models(self) -> dict[str, str]:
        """Return the model files named in the graph, by `id.input`."""
        return {
            str(spot): value
            for spot, value in spots(self.graph)
            if isinstance(value, str) and (spot.input in MODEL_INPUTS or value.lower().endswith(MODEL_SUFFIXES))
        }


def _unplaced(workflow: Workflow, kept: Set[InputRef], several: Sequence[InputRef]) -> str:
    """Return the message about texts of `prompts` that have no input, or several possible ones."""
    nodes = workflow.nodes
    if several:
        texts = "; ".join(f"{spot} {nodes.class_of(spot.node)} = {nodes.value(spot)!r}" for spot in several)
        return (
            f"prompts: {workflow.name} has {len(several)} texts that may be the prompt: {texts}; set the others with "
            f"inputs=, such as {{'{several[0]}': ...}}, or draw one of them: inputs={{'{several[-1]}': [..., ...]}}"
        )
    beside = f" beside {', '.join(sorted(map(str, kept)))}, which inputs= sets" if kept else ""
    return (
        f"prompts: {workflow.name} has no text input on the way to a text encoder{beside}; leave prompts out, or draw "
        "the texts of the input that is meant: inputs={'NODE.INPUT': [..., ...]}"
    )
