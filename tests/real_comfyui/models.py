"""Writes random-weight models that a real ComfyUI loads, samples and decodes on a CPU: the pictures are noise.

usage: python models.py MODELS_DIR        (with numpy and safetensors: ComfyUI's own Python has both)

`shapes.json` has the tensors of each file: an SD 1.5-shaped checkpoint with a two-level UNet, CLIP-L and TAESD as its
VAE (about 340 MB), and a rank-4 LoRA on three attention projections of that UNet. A ControlNet (42 MB) is shaped after
the same UNet. The upscale model is the smallest Real-ESRGAN Compact there can be: four times as wide.
"""
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

SHAPES = Path(__file__).with_name("shapes.json")
CHECKPOINT, CONTROLNET = "checkpoints/tiny_sd15.safetensors", "controlnet/tiny_controlnet.safetensors"
UPSCALER = "upscale_models/tiny_x4.safetensors"
UNET, CONTROL = "model.diffusion_model.", "control_model."
HINT_CHANNELS = (3, 16, 16, 32, 32, 96, 96, 256, 320)  # a picture's three, narrowed down to the UNet's width
LORA_ALPHA = 4.0
SPREAD = 0.02
VAE_SPREAD = 0.05  # TAESD is shallow: with less, every picture is flat grey


def weights(name: str, shape: Sequence[int], rng: Any) -> Any:
    """Float16 noise, except where noise would blow up or silence the network: norms are 1, biases 0."""
    import numpy as np

    if name.endswith(".alpha"):
        return np.full(shape, LORA_ALPHA, np.float32)
    if name.endswith("bias"):
        return np.zeros(shape, np.float16)
    if "norm" in name:
        return np.ones(shape, np.float16)
    spread = VAE_SPREAD if name.startswith("first_stage_model.") else SPREAD
    return np.asarray(rng.standard_normal(shape, np.float32) * spread, np.float16)


def controlnet(checkpoint: Mapping[str, Sequence[int]]) -> dict[str, Sequence[int]]:
    """The tensors of a ControlNet: the UNet's first half, a way out of each block there, a way in for the hint."""
    unet = {name.removeprefix(UNET): shape for name, shape in checkpoint.items() if name.startswith(UNET)}
    half = {name: shape for name, shape in unet.items() if name.startswith(("time_embed.", "input_blocks.", "middle_"))}
    width = HINT_CHANNELS[-1]
    blocks = {name.split(".")[1] for name in half if name.startswith("input_blocks.")}
    convolutions: dict[str, list[int]] = {f"zero_convs.{block}.0": [width, width, 1, 1] for block in sorted(blocks)}
    convolutions["middle_block_out.0"] = [width, width, 1, 1]
    for index, (narrow, wide) in enumerate(pairwise(HINT_CHANNELS)):
        convolutions[f"input_hint_block.{2 * index}"] = [wide, narrow, 3, 3]
    outs = {f"{name}.weight": shape for name, shape in convolutions.items()}
    biases = {f"{name}.bias": shape[:1] for name, shape in convolutions.items()}
    return {CONTROL + name: shape for name, shape in {**half, **outs, **biases}.items()}


def upscaler(width: int = 8, scale: int = 4) -> dict[str, Sequence[int]]:
    """Three convolutions with a PReLU between each two; the last one's channels become `scale`² pixels."""
    channels = (3, width, width, 3 * scale**2)
    convolutions = {
        f"body.{2 * index}": [wide, narrow, 3, 3] for index, (narrow, wide) in enumerate(pairwise(channels))
    }
    weights = {f"{name}.weight": shape for name, shape in convolutions.items()}
    biases = {f"{name}.bias": shape[:1] for name, shape in convolutions.items()}
    return {**weights, **biases, "body.1.weight": [width], "body.3.weight": [width]}


def main(models: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    files = json.loads(SHAPES.read_text())
    files |= {CONTROLNET: controlnet(files[CHECKPOINT]), UPSCALER: upscaler()}
    for file, shapes in files.items():
        target = models / file
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: weights(name, shape, rng) for name, shape in shapes.items()}, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
