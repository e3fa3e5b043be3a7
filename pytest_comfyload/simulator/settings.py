"""What a simulator is told before it starts: one frozen value, checked when it is made."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pytest_comfyload.errors import UsageError
from pytest_comfyload.simulator.faults import check_faults

__all__ = ["GPU_NAMES", "MODEL_FOLDERS", "PREVIEW_METHODS", "STOCK_MODELS", "Settings"]

GPU_NAMES = ("rtx3060", "rtx3090", "rtx4090", "a100", "h100")
_MOST_DEVICES = 16
PREVIEW_METHODS = ("none", "latent2rgb")

MODEL_FOLDERS = (
    "checkpoints", "configs", "loras", "vae", "text_encoders", "diffusion_models", "clip_vision", "style_models",
    "embeddings", "diffusers", "vae_approx", "controlnet", "gligen", "upscale_models", "latent_upscale_models",
    "custom_nodes", "hypernetworks", "photomaker", "classifiers", "model_patches", "audio_encoders",
)  # fmt: skip

STOCK_MODELS: Mapping[str, Sequence[str]] = {
    "checkpoints": ("sd_xl_base_1.0.safetensors", "tiny_sd15.safetensors", "v1-5-pruned-emaonly.safetensors"),
    "loras": ("add_detail.safetensors", "pixel-art-xl.safetensors", "tiny_lora.safetensors"),
    "vae": ("vae-ft-mse-840000-ema-pruned.safetensors",),
    "controlnet": ("control_v11p_sd15_canny.pth", "tiny_controlnet.safetensors"),
    "upscale_models": ("RealESRGAN_x4plus.pth", "tiny_x4.safetensors"),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides how a simulator behaves; equal settings and equal requests in the same order
    give equal generation times.

    `devices` is how many GPUs of this kind /system_stats lists; prompts run on the first, the others stay idle.
    `time_scale` is virtual seconds per wall second; `models` are files by folder, added to the stock models unless
    `stock_models` is False; `keep_pictures` is how many generated pictures stay available under /view.
    `custom_nodes` are commits by pack, as ComfyUI-Manager tells them; without one there is no Manager.
    `faults` are what shall go wrong, by name with a value or True, as `faults.FAULTS` lists them.
    Raises UsageError for a GPU, folder, preview method, fault or number that cannot be meant.
    """

    gpu: str = "rtx4090"
    devices: int = 1
    time_scale: float = 1.0
    seed: int = 0
    models: Mapping[str, Sequence[str]] = field(default_factory=dict)
    stock_models: bool = True
    probe_nodes: bool = False
    preview_method: str = "none"
    keep_pictures: int = 5000
    custom_nodes: Mapping[str, str] = field(default_factory=dict)
    faults: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _one_of("GPU", self.gpu, GPU_NAMES)
        _one_of("preview method", self.preview_method, PREVIEW_METHODS)
        for folder in self.models:
            _one_of("model folder", folder, MODEL_FOLDERS)
        if not 1 <= self.devices <= _MOST_DEVICES:
            raise UsageError(f"devices={self.devices} is not supported; give a number from 1 to {_MOST_DEVICES}")
        _positive("time_scale", self.time_scale)
        _positive("keep_pictures", self.keep_pictures)
        check_faults(self.faults)

    def models_in(self, folder: str) -> list[str]:
        """The files of one model folder, sorted as ComfyUI sorts them."""
        stock = STOCK_MODELS.get(folder, ()) if self.stock_models else ()
        return sorted({*stock, *self.models.get(folder, ())})


def _one_of(what: str, value: str, legal: Sequence[str]) -> None:
    if value not in legal:
        near = difflib.get_close_matches(value, legal, n=1, cutoff=0.0)
        names = ", ".join(dict.fromkeys([*near, *legal]))
        raise UsageError(f"the simulator knows no {what} {value!r}; choose one of: {names}")


def _positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise UsageError(f"{name} must be a positive number, not {value!r}")
