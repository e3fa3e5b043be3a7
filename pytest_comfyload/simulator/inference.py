"""Inference of the /object_info entries of unknown node classes from workflows that use them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pytest_comfyload.simulator.work import is_link

__all__ = ["MODEL_SUFFIXES", "inferred_class", "merged"]

MODEL_SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx")
_TYPES = {
    "image": "IMAGE", "images": "IMAGE", "pixels": "IMAGE", "start_image": "IMAGE", "end_image": "IMAGE",
    "samples": "LATENT", "latent": "LATENT", "latent_image": "LATENT", "latents": "LATENT",
    "positive": "CONDITIONING", "negative": "CONDITIONING", "conditioning": "CONDITIONING",
    "unet": "MODEL", "control_net": "CONTROL_NET", "upscale_model": "UPSCALE_MODEL",
    "seed": "INT", "noise_seed": "INT", "steps": "INT", "width": "INT", "height": "INT", "batch_size": "INT",
    "length": "INT", "text": "STRING", "prompt": "STRING", "filename_prefix": "STRING", "cfg": "FLOAT",
    "denoise": "FLOAT", "fps": "FLOAT", "frame_rate": "FLOAT",
}  # fmt: skip
"""Types by common names of inputs; the type of any other input is its name in capitals, such as GUIDER for `guider`."""
_FRACTIONS = ("cfg", "denoise", "guidance", "shift", "strength", "scale", "weight", "fps", "frame_rate", "factor")
_TEXTS = ("text", "prompt", "caption", "filename_prefix")
_HIGHEST_SEED = 2**64 - 1

TypeOf = Callable[[str, Any], str | None]
"""Function that returns the declared type of an input, or of an output slot, of a node class; None if unknown."""


def inferred_class(name: str, prompt: Mapping[str, Any], input_type: TypeOf, output_type: TypeOf) -> dict[str, Any]:
    """Return the /object_info entry of the class `name`, inferred from how this prompt uses it.

    An output slot has the type of the inputs that it is linked to. A class counts as an output node if nothing links to
    it, or if its name begins with `save` or `preview`.
    """
    ids = [node_id for node_id, node in prompt.items() if node["class_type"] == name]
    given = {key: value for node_id in ids for key, value in prompt[node_id]["inputs"].items()}
    declared = {key: _declaration(key, value, prompt, output_type) for key, value in given.items()}
    outputs = _outputs(ids, prompt, input_type)
    return {
        "input": {"required": {}, "optional": declared},
        "input_order": {"required": [], "optional": list(declared)},
        "output": outputs,
        "output_is_list": [False] * len(outputs),
        "output_name": outputs,
        "name": name,
        "display_name": name,
        "description": "Inferred from a workflow.",
        "python_module": "inferred",
        "category": "inferred",
        "output_node": not outputs or name.lower().startswith(("save", "preview")),
    }


def merged(known: dict[str, Any], seen: dict[str, Any]) -> dict[str, Any]:
    """Extend an inferred class by its use in another workflow: all inputs and slots that were seen, as first seen."""
    inputs = {**seen["input"]["optional"], **known["input"]["optional"]}
    types = itertools.zip_longest(known["output"], seen["output"], fillvalue="*")
    outputs = [other if first == "*" else first for first, other in types]
    return seen | {
        "input": {"required": {}, "optional": inputs},
        "input_order": {"required": [], "optional": list(inputs)},
        "output": outputs,
        "output_is_list": [False] * len(outputs),
        "output_name": outputs,
    }


def _declaration(name: str, value: Any, prompt: Mapping[str, Any], output_type: TypeOf) -> list[Any]:
    if is_link(value):
        source = prompt.get(value[0])
        known = output_type(source["class_type"], value[1]) if source else None
        return [known or type_by_name(name), {}]
    if isinstance(value, bool):
        return ["BOOLEAN", {"default": value}]
    if isinstance(value, int | float):
        return _number(name, value)
    if isinstance(value, str):
        return _text(name, value)
    return ["*", {}]


def _number(name: str, value: float) -> list[Any]:
    if name.endswith("seed"):
        return ["INT", {"default": 0, "min": 0, "max": _HIGHEST_SEED}]
    whole = isinstance(value, int) and not name.endswith(_FRACTIONS)
    return ["INT" if whole else "FLOAT", {"default": value}]


def _text(name: str, value: str) -> list[Any]:
    """Declare a single word as a choice, whose alternatives only the server knows, and anything else as free text."""
    is_word = value and " " not in value and "\n" not in value
    if name.startswith(_TEXTS) or name.endswith(_TEXTS) or not (is_word or value.endswith(MODEL_SUFFIXES)):
        return ["STRING", {"default": "", "multiline": "\n" in value or name != "filename_prefix"}]
    return ["COMBO", {}]


def type_by_name(name: str) -> str:
    """Return the type that an input of this name usually takes."""
    return _TYPES.get(name, name.upper())


def _outputs(ids: list[str], prompt: Mapping[str, Any], input_type: TypeOf) -> list[str]:
    """Return the type of each slot up to the last one that is linked; `*` for a slot that nothing is linked to."""
    types: dict[int, str] = {}
    known: set[int] = set()
    for slot, class_type, name in _readers(ids, prompt):
        declared = input_type(class_type, name)
        if declared and slot not in known:
            types[slot] = declared
            known.add(slot)
        types.setdefault(slot, type_by_name(name))
    return [types.get(slot, "*") for slot in range(max(types, default=-1) + 1)]


def _readers(ids: list[str], prompt: Mapping[str, Any]) -> Iterator[tuple[int, str, str]]:
    """Yield every link to one of these nodes: slot, class of the reading node, name of its input."""
    for node in prompt.values():
        for name, value in node["inputs"].items():
            if is_link(value) and value[0] in ids:
                yield int(value[1]), node["class_type"], name
