"""Where the time inside nodes went, by class: models loading, sampling, decoding, saving.

Weights are moved to the GPU inside the node that needs them first: a sampler's time before its first step, less the
step itself, is loading too.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable
from itertools import pairwise

from pytest_comfyload.protocol.timeline import NodeInterval

__all__ = [
    "decode_time", "is_loader", "is_saver", "model_load_time", "sampling_time", "save_time", "step_time",
    "weights_time",
]  # fmt: skip

# CheckpointLoaderSimple, UNETLoader, DualCLIPLoader, LoraLoaderModelOnly, UpscaleModelLoader, UnetLoaderGGUF …
_LOADER = re.compile(r"(?<!Image)(?<!Mask)(?<!Video)(?<!Audio)(?<!Latent)(?<!Text)Loader(?![a-z])")
_SAMPLER = re.compile("sampler", re.IGNORECASE)
_DECODER = re.compile("^VAEDecode")
_SAVER = re.compile("^(Save|Preview)")


def is_loader(class_type: str) -> bool:
    """Whether nodes of the class give a model: MODEL, CLIP, VAE, CONTROL_NET and their kind."""
    return _LOADER.search(class_type) is not None


def is_saver(class_type: str) -> bool:
    """Whether nodes of the class save or preview."""
    return _SAVER.search(class_type) is not None


def step_time(node: NodeInterval) -> float | None:
    """The median time of one step; None with fewer than two progress values."""
    steps = [(later - earlier) / (b - a) for (earlier, a), (later, b) in pairwise(node.steps) if b > a]
    return statistics.median(steps) if steps else None


def weights_time(node: NodeInterval) -> float:
    """How long a sampler got ready before its first step; 0 where that cannot be told."""
    step = step_time(node)
    if step is None or not _SAMPLER.search(node.class_type):
        return 0.0
    first_time, first_value = node.steps[0]
    return max(0.0, first_time - node.start - first_value * step)


def model_load_time(nodes: Iterable[NodeInterval]) -> float:
    """Seconds in loaders, and in samplers before their first step; 0 where all was in place."""
    return sum(node.duration if is_loader(node.class_type) else weights_time(node) for node in nodes)


def sampling_time(nodes: Iterable[NodeInterval]) -> float | None:
    """Seconds in samplers from their first step on; None where none ran."""
    return _time_in(_SAMPLER, nodes, lambda node: node.duration - weights_time(node))


def decode_time(nodes: Iterable[NodeInterval]) -> float | None:
    """Seconds in VAEDecode and its kind; None where none ran."""
    return _time_in(_DECODER, nodes, lambda node: node.duration)


def save_time(nodes: Iterable[NodeInterval]) -> float | None:
    """Seconds in nodes that save or preview; None where none ran."""
    return _time_in(_SAVER, nodes, lambda node: node.duration)


def _time_in(
    classes: re.Pattern[str], nodes: Iterable[NodeInterval], seconds: Callable[[NodeInterval], float]
) -> float | None:
    times = [seconds(node) for node in nodes if classes.search(node.class_type)]
    return sum(times) if times else None
