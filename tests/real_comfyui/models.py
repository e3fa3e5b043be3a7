"""Writes random-weight models that a real ComfyUI loads, samples and decodes on a CPU: the pictures are noise.

usage: python models.py MODELS_DIR        (with numpy and safetensors: ComfyUI's own Python has both)

`shapes.json` has the tensors of each file: an SD 1.5-shaped checkpoint with a two-level UNet, CLIP-L and TAESD as its
VAE (about 340 MB), and a rank-4 LoRA on three attention projections of that UNet.
"""
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SHAPES = Path(__file__).with_name("shapes.json")
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


def main(models: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    for file, shapes in json.loads(SHAPES.read_text()).items():
        target = models / file
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: weights(name, shape, rng) for name, shape in shapes.items()}, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
