"""The memory of a GPU (weights, working sets, torch's cache), and the sizes of model files by their names."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Family", "SimulatedVram", "Weights", "family_of", "file_size", "part_of"]

_CACHE_SECONDS = 10.0
"""Minimum interval at which ComfyUI empties torch's cache, which it does between prompts."""


class SimulatedVram:
    """VRAM, of which `total` bytes are available to torch.

    Torch allocates memory from the driver as needed and returns it late: `reserved` is what the driver sees, `used` is
    what is really in use, as /system_stats reports it.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.working = 0
        """Bytes that the running node uses in addition to the weights."""
        self._held: dict[tuple[str, str, tuple[str, ...]], int] = {}
        self._reserved = 0
        self._rested_at = self._emptied_at = -math.inf

    @property
    def weights(self) -> int:
        """Bytes of all loaded weights."""
        return sum(self._held.values())

    @property
    def used(self) -> int:
        return self.weights + self.working

    def reserved(self, now: float) -> int:
        """Return the bytes allocated from the driver at this moment; never less than `used`."""
        due = max(self._rested_at, self._emptied_at + _CACHE_SECONDS)
        if now >= due and self._reserved > self.used:
            self._reserved = 0
            self._emptied_at = due
        self._reserved = max(self._reserved, self.used)
        return self._reserved

    def hold(self, weights: Weights, working: int = 0) -> int:
        """Load weights, leaving room for `working` bytes; return the number of bytes that had to be moved.

        Weights that are too large are loaded only in part, as in ComfyUI. Raises MemoryError if the card is too small
        for the working set even with everything else unloaded.
        """
        key = (weights.file, weights.part, weights.patches)
        held = self._held.pop(key, 0)
        while self._held and self.weights + weights.size + working > self.total:
            del self._held[next(iter(self._held))]
            self._reserved = 0
        if working > self.total:
            self._reserved = self.total
            raise MemoryError
        self._held[key] = min(weights.size, self.total - working)
        return max(0, self._held[key] - held)

    def offloaded(self, weights: Weights) -> int:
        """Return the bytes of these weights that did not fit on the card; each use moves them over the bus."""
        return weights.size - self._held.get((weights.file, weights.part, weights.patches), 0)

    def work(self, working: int) -> None:
        """Set the bytes that the running node uses in addition to the weights."""
        self.working = working
        self._reserved = max(self._reserved, self.used)

    def begin(self, now: float) -> None:
        """Record that a prompt has started: until it ends, torch keeps its cache."""
        self.reserved(now)
        self._rested_at = math.inf

    def rest(self, now: float) -> None:
        """Record that the prompt has ended."""
        self.working = 0
        self._rested_at = now

    def drop(self, file: str) -> None:
        """Unload all parts of a file, as happens when it is read again."""
        self._held = {key: size for key, size in self._held.items() if key[0] != file}

    def clear(self) -> None:
        """Unload everything and return all memory to the driver."""
        self._held.clear()
        self.working = self._reserved = 0


MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Family:
    """Model family; `sampling` is the cost of a step relative to SDXL for the same size; sizes are bytes on the GPU."""

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
"""Families by words in the names of their files; large image and video models count as FLUX and WAN."""


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
        """The class name that the log reports for the model."""
        own = {"unet": self.family.unet_class, "clip": self.family.clip_class}
        return own.get(self.part) or _SHARED_CLASSES[self.part]


def family_of(file: str) -> Family:
    """Return the family that a file's name suggests."""
    name = file.lower()
    return next((family for family, words in _WORDS if any(word in name for word in words)), SD15)


def part_of(file: str, part: str) -> Weights:
    """Return the `unet`, `clip`, `vae`, `controlnet`, `lora` or `upscaler` part of a file."""
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
    """Return the size of a file on disk: the bytes of its parts, or 0 in a folder that no node loads from."""
    return sum(part_of(file, part).size for part in _IN_FOLDER.get(folder, ()))
