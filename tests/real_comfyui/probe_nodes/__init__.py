"""Custom nodes that tests need and ComfyUI lacks: one takes a known time, one fails, one runs out of memory.

Runs inside ComfyUI, copied into its `custom_nodes`.
"""
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import time
from typing import Any

import comfy.utils
import torch

STEPS = 10
OUT_OF_MEMORY = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. "
    "GPU 0 has a total capacity of 23.69 GiB of which 12.06 GiB is free."
)
IMAGE_INPUT = {"required": {"image": ("IMAGE",)}}


class ProbeSleep:
    """Sleeps for `seconds` in ten progress steps and returns a square of noise; a new `seed` makes it run again."""

    CATEGORY, FUNCTION, RETURN_TYPES = "probe", "run", ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "seconds": ("FLOAT", {"default": 0.2, "min": 0.0, "max": 3600.0, "step": 0.01}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**64 - 1}),
                "width": ("INT", {"default": 64, "min": 8, "max": 4096}),
            }
        }

    def run(self, seconds: float, seed: int, width: int) -> tuple[torch.Tensor]:
        progress = comfy.utils.ProgressBar(STEPS)
        for _ in range(STEPS):
            time.sleep(seconds / STEPS)
            progress.update(1)  # raises if the prompt was interrupted
        return (torch.rand((1, width, width, 3), generator=torch.Generator().manual_seed(seed)),)


class ProbeFail:
    """Raises ValueError."""

    CATEGORY, FUNCTION, RETURN_TYPES = "probe", "run", ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return IMAGE_INPUT

    def run(self, image: torch.Tensor) -> tuple[torch.Tensor]:
        raise ValueError("probe failure")


class ProbeOOM:
    """Raises torch.OutOfMemoryError as a GPU would."""

    CATEGORY, FUNCTION, RETURN_TYPES = "probe", "run", ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return IMAGE_INPUT

    def run(self, image: torch.Tensor) -> tuple[torch.Tensor]:
        raise torch.OutOfMemoryError(OUT_OF_MEMORY)


NODE_CLASS_MAPPINGS = {node.__name__: node for node in (ProbeSleep, ProbeFail, ProbeOOM)}
