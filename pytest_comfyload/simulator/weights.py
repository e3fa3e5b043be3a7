"""Model files are known by their names: which family a name means, and how large its parts are."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Family", "Weights", "family_of", "file_size", "part_of"]

MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Family:
    """`sampling` is the cost of a step of this family beside SDXL's on the same pixels; sizes are bytes on the GPU."""

    name: str
    sampling: float
    unet: int
    clip: int
    vae: int
    controlnet: int
    lora: int
    unet_class: str = "BaseModel"
    clip_class: str = "SD1ClipModel"


SDXL = Family("sdxl", 1.0, 5_140 * MB, 1_640 * MB, 168 * MB, 2_500 * MB, 150 * MB, "SDXL", "SDXLClipModel")
SD15 = Family("sd15", 0.45, 1_720 * MB, 247 * MB, 168 * MB, 723 * MB, 40 * MB)
TINY = Family("tiny", 0.02, 12 * MB, 4 * MB, 4 * MB, 4 * MB, 1 * MB)
FLUX = Family("flux", 3.0, 11_900 * MB, 5_150 * MB, 168 * MB, 3_300 * MB, 350 * MB, "Flux", "FluxClipModel_")
WAN = Family("wan", 4.0, 14_300 * MB, 6_740 * MB, 254 * MB, 3_300 * MB, 310 * MB, "WAN21", "WanTEModel")
_UPSCALER = 67 * MB
_SHARED_CLASSES = {"vae": "AutoencoderKL", "controlnet": "ControlNet", "upscaler": "ImageModelDescriptor"}
_WORDS = (
    (TINY, ("tiny",)),
    (FLUX, ("flux", "t5xxl", "clip_l", "qwen", "chroma", "hidream", "sd3")),
    (WAN, ("wan", "umt5", "hunyuan", "ltx", "cosmos", "mochi")),
    (SDXL, ("xl", "pony", "illustrious")),
)
"""Families by what their files are called; large image and video models count as FLUX and WAN."""


@dataclass(frozen=True, slots=True)
class Weights:
    """One part of one model file, as a node passes it on; `patches` are the LoRAs applied to it."""

    file: str
    part: str
    family: Family
    size: int
    patches: tuple[str, ...] = ()

    @property
    def model_class(self) -> str:
        """The name under which the log knows such a model."""
        own = {"unet": self.family.unet_class, "clip": self.family.clip_class}
        return own.get(self.part) or _SHARED_CLASSES[self.part]


def family_of(file: str) -> Family:
    """The family that a file's name suggests."""
    name = file.lower()
    return next((family for family, words in _WORDS if any(word in name for word in words)), SD15)


def part_of(file: str, part: str) -> Weights:
    """The `unet`, `clip`, `vae`, `controlnet`, `lora` or `upscaler` part of a file."""
    family = family_of(file)
    size = _UPSCALER if part == "upscaler" else int(getattr(family, part))
    return Weights(file, part, family, size)


_IN_FOLDER = {
    "checkpoints": ("unet", "clip", "vae"),
    "loras": ("lora",),
    "vae": ("vae",),
    "controlnet": ("controlnet",),
    "upscale_models": ("upscaler",),
}


def file_size(folder: str, file: str) -> int:
    """Bytes on the disk: those of the parts in it. Of a folder that no node loads from, none."""
    return sum(part_of(file, part).size for part in _IN_FOLDER.get(folder, ()))
