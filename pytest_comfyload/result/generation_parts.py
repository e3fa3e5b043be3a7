"""The parts of a generation, identified by node class: loading models, sampling, decoding, saving."""

from __future__ import annotations

import functools
import re
import statistics
from collections.abc import Iterable
from itertools import pairwise

from pytest_comfyload.protocol.timeline import NodeInterval

__all__ = ["is_loader", "is_saver", "model_load_time", "parts_of", "step_time", "weights_time"]

# CheckpointLoaderSimple, UNETLoader, DualCLIPLoader, LoraLoaderModelOnly, UpscaleModelLoader, UnetLoaderGGUF …
_LOADER = re.compile(r"(?<!Image)(?<!Mask)(?<!Video)(?<!Audio)(?<!Latent)(?<!Text)Loader(?![a-z])")
_SAMPLER = re.compile("sampler", re.IGNORECASE)
_PARTS = {
    "sampling_time": _SAMPLER,
    "decode_time": re.compile("^VAEDecode"),
    "save_time": re.compile("^(Save|Preview)"),
}
# Number of node classes whose classification is cached.
_KNOWN = 4096


@functools.lru_cache(_KNOWN)
def is_loader(class_type: str) -> bool:
    """Return whether nodes of the class load a model: MODEL, CLIP, VAE, CONTROL_NET or similar."""
    return _LOADER.search(class_type) is not None


@functools.lru_cache(_KNOWN)
def parts_of(class_type: str) -> tuple[str, ...]:
    """Return the parts of a generation that nodes of the class belong to: sampling_time, decode_time, save_time."""
    return tuple(part for part, classes in _PARTS.items() if classes.search(class_type))


def is_saver(class_type: str) -> bool:
    """Return whether nodes of the class save or preview."""
    return "save_time" in parts_of(class_type)


def step_time(node: NodeInterval) -> float | None:
    """Return the median seconds of one step; None with fewer than two progress values."""
    steps = [(later - earlier) / (b - a) for (earlier, a), (later, b) in pairwise(node.steps) if b > a]
    return statistics.median(steps) if steps else None


def weights_time(node: NodeInterval) -> float:
    """Return the seconds that a sampler needed before its first step; 0 if unknown, or if it is not a sampler."""
    if "sampling_time" not in parts_of(node.class_type) or (step := step_time(node)) is None:
        return 0.0
    first_time, first_value = node.steps[0]
    return max(0.0, first_time - node.start - first_value * step)


def model_load_time(nodes: Iterable[NodeInterval]) -> float:
    """Return the seconds in loaders, and in samplers before their first step; 0 if all models were loaded already."""
    return sum(node.duration if is_loader(node.class_type) else weights_time(node) for node in nodes)
