"""The subject of a load: what it is about, as comparable values without secrets.

These are the inputs that all its prompts share, by `class.input`, the custom node packs of the workflows, and what the
servers report about themselves.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from pytest_comfyload.history.redaction import public_flags, public_values
from pytest_comfyload.result.run_facts import UNKNOWN, ServerFacts, custom_node
from pytest_comfyload.run.prepare import FittedPart
from pytest_comfyload.run.target import Installed, Target
from pytest_comfyload.workflow.graph import InputRef, NodeGraph, link_of, spots
from pytest_comfyload.workflow.object_info import UNKNOWN as UNKNOWN_CLASSES
from pytest_comfyload.workflow.workflow import Workflow

__all__ = ["model_folders", "server_facts", "subject_of_parts"]

# Model folders in which the stock loaders look for the file that an input names.
_FOLDERS: Mapping[str, tuple[str, ...]] = {
    "ckpt_name": ("checkpoints",),
    "unet_name": ("diffusion_models",),
    "clip_name": ("text_encoders", "clip_vision"),
    "clip_name1": ("text_encoders",),
    "clip_name2": ("text_encoders",),
    "clip_name3": ("text_encoders",),
    "vae_name": ("vae",),
    "lora_name": ("loras",),
    "control_net_name": ("controlnet",),
    "model_name": ("upscale_models",),
}
_CUSTOM = "custom_nodes."


def model_folders(parts: Sequence[FittedPart]) -> list[str]:
    """Return the model folders that the workflows use."""
    workflows = [by_text[0] for part in parts for by_text, _ in part.workflows]
    named = {spot.input for workflow in workflows for spot, _ in spots(workflow.graph)}
    return sorted({folder for name in named for folder in _FOLDERS.get(name, ())})


def subject_of_parts(parts: Sequence[FittedPart], installed: Sequence[Installed] = ()) -> dict[str, Any]:
    """Return the subject of all groups and workflows, with their names as prefixes if there are several.

    `graph` is a hash of the classes and links. Models are given with their sizes if any of the servers reports these.
    """
    workflows = [(part.part.name, by_text[0]) for part in parts for by_text, _ in part.workflows]
    several = len(workflows) > 1
    inputs = {
        f"{_place(group, workflow.name) if several else ''}{name}": _sized(name.rpartition(".")[2], value, installed)
        for group, workflow in workflows
        for name, value in _of_workflow(workflow)
    }
    return public_values(inputs) | _texts(parts) | dict.fromkeys(map(custom_node, _packs(parts)), UNKNOWN)


def server_facts(target: Target, installed: Sequence[Installed]) -> tuple[ServerFacts, ...]:
    """Return the facts of the servers that compute, which are the workers if they are known.

    `installed` is what is installed on each of them, in the same order.
    """
    servers, stats = (target.workers, target.worker_stats) if target.workers else (target.servers, target.stats)
    told = [
        ServerFacts.told_by(server.url, each, has.custom_nodes)
        for server, each, has in zip(servers, stats, installed, strict=True)
    ]
    return tuple(replace(each, flags=public_flags(each.flags)) for each in told)


def _place(group: str | None, workflow: str) -> str:
    return f"{group}: {workflow}: " if group else f"{workflow}: "


def _of_workflow(workflow: Workflow) -> Iterator[tuple[str, Any]]:
    nodes = workflow.nodes
    yield "graph", _hash([[nodes.class_of(node_id), _links(workflow, node_id)] for node_id in nodes])
    counts = Counter(map(nodes.class_of, nodes))
    drawn = {spot: setting.described(spot) for setting in workflow.settings for spot in setting.spots}
    for spot, value in _common(workflow):
        class_type = nodes.class_of(spot.node)
        node = class_type if counts[class_type] == 1 else f"{class_type}#{spot.node}"
        yield f"{node}.{spot.input}", _storable(drawn.get(spot, value))


def _sized(name: str, value: Any, installed: Sequence[Installed]) -> Any:
    """Return a model's name with its size, since another file of the same name is another model.

    The name is given as `x.safetensors (2,132,625,612 B)`.
    """
    if isinstance(value, list):
        return [_sized(name, each, installed) for each in value]
    if not isinstance(value, str):
        return value
    listed = [server.models.get(folder, {}) for server in installed for folder in _FOLDERS.get(name, ())]
    sizes = sorted({files[value] for files in listed if value in files})
    return f"{value} ({' or '.join(f'{size:,} B' for size in sizes)})" if sizes else value


def _packs(parts: Sequence[FittedPart]) -> list[str]:
    """Return the custom node packs that define the workflows' classes, as reported by the servers."""
    used = {
        str(by_text[0].object_info.entry(node["class_type"]).get("python_module"))
        for part in parts
        for by_text, _ in part.workflows
        for node in by_text[0].graph.values()
    }
    return sorted(module.removeprefix(_CUSTOM) for module in used if module.startswith(_CUSTOM))


def _storable(value: Any) -> Any:
    """Return a value in which integers of more than 64 bits are replaced by text."""
    if isinstance(value, list):
        return [_storable(each) for each in value]
    return str(value) if isinstance(value, int) and not -(2**63) <= value < 2**64 else value


def _common(workflow: Workflow) -> Iterator[tuple[InputRef, Any]]:
    """Yield the literal inputs that are the same in two prompts, and those that the user set."""
    template = workflow.on(UNKNOWN_CLASSES).template
    one, other = (
        NodeGraph(template.draw(random.Random(name), text=name, filename_prefix=name).graph)
        for name in ("one", "other")
    )
    for spot, value in spots(workflow.graph):
        if link_of(value) is None and (spot in workflow.kept or one.value(spot) == other.value(spot)):
            yield spot, value


def _links(workflow: Workflow, node_id: str) -> list[list[str]]:
    """Return each linked input with the class that feeds it, since node ids may change in an unchanged workflow."""
    sources = [(name, link_of(value)) for name, value in sorted(workflow.nodes.inputs_of(node_id).items())]
    return [[name, workflow.nodes.class_of(source)] for name, source in sources if source is not None]


def _texts(parts: Sequence[FittedPart]) -> dict[str, Any]:
    texts = [text.text for part in parts if part.part.scenario.prompts is not None for text in part.part.texts]
    return {"prompts": f"{len(texts)} texts, {_hash(texts)}"} if texts else {}


def _hash(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()[:8]
