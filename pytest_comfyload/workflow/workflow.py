"""A Workflow is a graph with a name that never changes: every method answers with something new."""

from __future__ import annotations

import json
import os
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from pytest_comfyload.errors import WorkflowError, nearest
from pytest_comfyload.redaction import hide_named
from pytest_comfyload.scenario.extra_data import hide_extra_data
from pytest_comfyload.workflow.graph import Graph, InputRef, read_graph, replaced, spots, value_at
from pytest_comfyload.workflow.input_values import ChoiceInput, DistributionInput, read_setting
from pytest_comfyload.workflow.inputs import nodes_at, spots_at
from pytest_comfyload.workflow.must_run import expect_classes, helpless_message, needed
from pytest_comfyload.workflow.object_info import UNKNOWN, ObjectInfo
from pytest_comfyload.workflow.texts import PromptText, read_text
from pytest_comfyload.workflow.variation import Variation, text_places, varied

__all__ = ["Workflow", "shipped_workflows"]

MODEL_INPUTS = {
    "ckpt_name", "unet_name", "vae_name", "lora_name", "control_net_name", "clip_name", "model_name",
}  # fmt: skip
MODEL_SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth", ".bin", ".gguf", ".onnx", ".engine")


@dataclass(frozen=True, slots=True)
class Workflow:
    """A workflow in API format. `kept` are the inputs that the user set, which `vary` leaves alone but for their draws.

    `graph` has the first value of each setting; nodes of the classes `must_run` get fresh input in each prompt, which
    may be one of the `variants` of a picture. `extra_data` came with the graph and goes with each prompt.
    `text_spots`: where prompt texts go, if the user gave some. `object_info`: what is known of its node classes.
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
        """From the name of a shipped workflow, the path of a .json (relative to `root`, then to the working
        directory), or a dict.

        Raises WorkflowError.
        """
        if isinstance(source, Mapping):
            return cls._read("workflow", source, "the workflow")
        if isinstance(source, str) and _is_name(source):
            source = _shipped(source)
        raw = _parsed(read_text(source, root, WorkflowError), source)
        return cls._read(PurePath(source).stem, raw, str(source))

    @classmethod
    def _read(cls, name: str, raw: object, origin: str) -> Workflow:
        graph, extra_data = read_graph(raw, origin)
        hide_extra_data(extra_data)
        for node in graph.values():
            hide_named(node["inputs"])
        return cls(name, graph, extra_data=extra_data)

    def on(self, object_info: ObjectInfo) -> Workflow:
        """The workflow as a server with these node classes sees it."""
        return replace(self, object_info=object_info)

    def matches(self, address: str) -> list[str]:
        """The ids of the nodes that `NODE.INPUT` speaks of; empty if this workflow has none."""
        return nodes_at(self.graph, address)

    def with_inputs(self, values: Mapping[str, Any]) -> Workflow:
        """With other inputs: `{"KSampler.steps": 20}`, by id, title or class; `"KSampler[*].steps"` for several.

        A list is drawn from in each prompt, and so is a dict of value to weight, or a distribution. Text is converted
        to what the server takes, or to the type of the present value where no server was asked.
        Raises WorkflowError.
        """
        hide_named(values)
        settings = {setting.address: setting for setting in self.settings}
        for address, value in values.items():
            settings.pop(address, None)  # what is set last comes last
            settings[address] = read_setting(self.graph, address, value, self.object_info, self.name)
        firsts = {spot: value for setting in settings.values() for spot, value in setting.first.items()}
        return replace(
            self,
            graph=replaced(self.graph, firsts),
            kept=self.kept | firsts.keys(),
            settings=tuple(settings.values()),
        )

    def with_text(self, text: PromptText) -> Workflow:
        """With the inputs that come with a prompt text. Raises WorkflowError, which says where the text was read."""
        try:
            new = self.with_inputs(text.inputs) if text.inputs else self
        except WorkflowError as error:
            raise WorkflowError(f"{text.origin}: {error}") from None
        places = set(self.text_spots or ()) - self.kept
        if places and places <= new.kept:
            raise WorkflowError(f"{text.origin}: its text and its {', '.join(map(str, places))} are for the same input")
        return new

    def taking_texts(self, inputs: Iterable[str], *, optional: bool = False) -> Workflow:
        """With a place for the texts of `prompts`. `inputs` are the addresses that the user set beside them.

        Raises:
            WorkflowError: There is no place (unless `optional`), or there are several to choose from.
        """
        kept = {spot for address in inputs for spot in spots_at(self.graph, address, self.object_info, self.name)}
        found, several = text_places(self.graph, kept, self.object_info)
        if several or not (found or optional):
            raise WorkflowError(_unplaced(self, kept, several))
        return replace(self, text_spots=found)

    def always_running(self, classes: Sequence[str], *, draws: bool = False) -> Workflow:
        """With fresh input for every node of these classes in each prompt.

        `draws`: whether prompts bring further inputs of their own, so that what is new in them is not known.
        Raises WorkflowError for a class that is not there, or that nothing new can be fed to.
        """
        expect_classes(self.graph, classes, self.name)
        fresh = replace(self, must_run=tuple(classes))
        helpless = fresh.vary(random.Random(0), text="", filename_prefix="").helpless
        if helpless and not draws:
            raise WorkflowError(helpless_message(self.graph, helpless[0]))
        return fresh

    def vary(
        self,
        rng: random.Random,
        *,
        text: str | None,
        filename_prefix: str,
        place: Mapping[str, int] | None = None,
        vary_text: bool = True,
    ) -> Variation:
        """The next prompt: fresh seeds, `text` as the positive prompt, outputs saved under `filename_prefix`.

        `place`: the prompt's `index`, `user` and `iteration`, for texts that name them. `vary_text`: make the text one
        that no other prompt has.
        """
        return varied(
            self.graph,
            self.kept,
            rng,
            text=text,
            filename_prefix=filename_prefix,
            object_info=self.object_info,
            settings=self.settings,
            must_run=self.must_run,
            place=place,
            variants=self.variants,
            text_spots=self.text_spots,
            vary_text=vary_text,
        )

    def node_counts(self) -> dict[str, int]:
        """How many nodes of each class a server executes for one prompt, where nothing is cached."""
        return dict(
            Counter(self.graph[node_id]["class_type"] for node_id in sorted(needed(self.graph, self.object_info)))
        )

    def pictures_to_vary(self) -> dict[str, str]:
        """By `id.input`, the pictures of which every prompt needs a variant of its own, as their nodes name them."""
        return self.vary(random.Random(0), text="", filename_prefix="").pictures

    def models(self) -> dict[str, str]:
        """The model files named in the graph, by `id.input`."""
        return {
            str(spot): value
            for spot, value in spots(self.graph)
            if isinstance(value, str) and (spot.input in MODEL_INPUTS or value.lower().endswith(MODEL_SUFFIXES))
        }


def _unplaced(workflow: Workflow, kept: Set[InputRef], several: Sequence[InputRef]) -> str:
    """Why the texts of `prompts` go nowhere, and how to send them somewhere."""
    graph = workflow.graph
    if several:
        texts = "; ".join(f"{spot} {graph[spot.node]['class_type']} = {value_at(graph, spot)!r}" for spot in several)
        return (
            f"prompts: {workflow.name} has {len(several)} texts that may be the prompt: {texts}; set the others by "
            f"inputs=, such as {{'{several[0]}': ...}}, or draw one of them: inputs={{'{several[-1]}': [..., ...]}}"
        )
    beside = f" beside {', '.join(sorted(map(str, kept)))}, which inputs= sets" if kept else ""
    return (
        f"prompts: {workflow.name} has no text input on the way to a text encoder{beside}; leave prompts out, or draw "
        "the texts of the input that is meant: inputs={'NODE.INPUT': [..., ...]}"
    )


def shipped_workflows() -> list[str]:
    """The names of the workflows that come with the package."""
    return sorted(path.stem for path in _shipped_folder().glob("*.json"))


def _shipped_folder() -> Path:
    """In an installed package the workflows lie inside it, in a checkout beside it."""
    package = Path(__file__).parents[1]
    inside = package / "workflows"
    return inside if inside.is_dir() else package.parent / "workflows"


def _is_name(source: str) -> bool:
    return not source.lower().endswith(".json") and "/" not in source and "\\" not in source


def _shipped(name: str) -> Path:
    names = shipped_workflows()
    if name not in names:
        raise WorkflowError(
            f"no workflow {name!r}; shipped are {nearest(name, names)}; a file of your own ends in .json"
        )
    return _shipped_folder() / f"{name}.json"


def _parsed(text: str, source: str | os.PathLike[str]) -> object:
    try:
        parsed: object = json.loads(text)
    except json.JSONDecodeError as error:
        raise WorkflowError(f"{source}, line {error.lineno} column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise WorkflowError(f"{source}: {error}") from None
    _refuse_repeated_keys(text, source)
    return parsed


# In valid JSON: a text (a key where a colon follows), or the begin or end of an object or a list.
_TOKEN = re.compile(r'("(?:[^"\\]|\\.)*")(\s*:)?|([{[])|[]}]')


def _refuse_repeated_keys(text: str, source: str | os.PathLike[str]) -> None:
    """Of two entries of one name JSON keeps the last: a node would vanish without a word."""
    objects: list[dict[str, int]] = []
    for token in _TOKEN.finditer(text):
        key, colon, opens = token.groups()
        if opens:
            objects.append({})
        elif key is None:
            objects.pop()
        elif colon and (first := objects[-1].setdefault(key, token.start())) != token.start():
            lines = [text.count("\n", 0, at) + 1 for at in (first, token.start())]
            raise WorkflowError(
                f"{source}, line {lines[1]}: the key {key} is there already, in line {lines[0]}, and JSON keeps only "
                "the last; give each its own name"
            )
