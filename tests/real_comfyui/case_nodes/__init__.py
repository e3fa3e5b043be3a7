"""Custom nodes modelled on well-known ones: odd declarations and outputs, hidden inputs, errors of each backend.

Runs inside ComfyUI, copied into its `custom_nodes`.
"""
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, ClassVar

import folder_paths
import torch
from PIL import Image

IMAGE: tuple[str, ...] = ("IMAGE",)
OUT_OF_MEMORY = {
    "dml": RuntimeError(
        "Could not allocate tensor with 4246732800 bytes. There is not enough GPU video memory available!"
    ),
    "cpu": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 29491200 bytes."),
    "mps": RuntimeError("MPS backend out of memory (MPS allocated: 8.72 GB, max allowed: 9.07 GB)."),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "memoryerror": MemoryError(),
    "hip": RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB."),
}


def noise(seed: int, side: int = 64) -> torch.Tensor:
    return torch.rand((1, side, side, 3), generator=torch.Generator().manual_seed(seed % 2**63))


class CaseNode:
    CATEGORY, FUNCTION, RETURN_TYPES = "cases", "run", IMAGE
    INPUTS: ClassVar[dict[str, Any]] = {}

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return cls.INPUTS


class CaseNoise(CaseNode):
    INPUTS: ClassVar = {
        "required": {
            "seed": ("INT", {"default": 0, "min": 0, "max": 2**64 - 1}),
            "width": ("INT", {"default": 64, "min": 8, "max": 4096}),
        }
    }

    def run(self, seed: int, width: int) -> tuple[torch.Tensor]:
        return (noise(seed, width),)


class CaseSeedInf(CaseNode):
    """Declares an infinite maximum seed, which JSON cannot represent."""

    INPUTS: ClassVar = {"required": {"seed": ("INT", {"default": 0, "min": 0, "max": float("inf")})}}

    def run(self, seed: int) -> tuple[torch.Tensor]:
        return (noise(seed),)


class CaseAnyStyle(CaseNode):
    """Lists no files but accepts any: it validates its inputs itself."""

    INPUTS: ClassVar = {"required": {"image": IMAGE, "root_dir": (["input", "output"],), "file": ([],)}}

    @classmethod
    def VALIDATE_INPUTS(cls, root_dir: str, file: str) -> bool:
        return True

    def run(self, image: torch.Tensor, root_dir: str, file: str) -> tuple[torch.Tensor]:
        return (image,)


class CaseRaise(CaseNode):
    """Runs out of memory with the error of each backend."""

    INPUTS: ClassVar = {"required": {"image": IMAGE, "kind": (list(OUT_OF_MEMORY),)}}

    def run(self, image: torch.Tensor, kind: str) -> tuple[torch.Tensor]:
        raise OUT_OF_MEMORY[kind]


class CaseExtra(CaseNode):
    """Reads the editor's workflow, which is only available through extra_data."""

    INPUTS: ClassVar = {"required": {"image": IMAGE}, "hidden": {"extra_pnginfo": "EXTRA_PNGINFO"}}

    def run(self, image: torch.Tensor, extra_pnginfo: Any = None) -> tuple[torch.Tensor]:
        for _ in extra_pnginfo["workflow"]["nodes"]:
            pass
        return (image,)


class CaseApi(CaseNode):
    """A paid node that rejects every key that does not end in `-good`, and quotes the key in its error."""

    API_NODE = True
    INPUTS: ClassVar = {
        "required": {"seed": ("INT", {"default": 0, "min": 0, "max": 2**31 - 1})},
        "hidden": {"auth_token": "AUTH_TOKEN_COMFY_ORG", "api_key": "API_KEY_COMFY_ORG"},
    }

    def run(self, seed: int, auth_token: str | None = None, api_key: str | None = None) -> tuple[torch.Tensor]:
        key = api_key or auth_token or ""
        if not key.endswith("-good"):
            raise PermissionError(f"Unauthorized: {key!r} is no valid key")
        return (noise(seed),)


class CaseVideo(CaseNode):
    """Saves a video and calls it a `gif`, as the best-known node of this kind does."""

    OUTPUT_NODE, RETURN_TYPES = True, ("VHS_FILENAMES",)
    INPUTS: ClassVar = {
        "required": {
            "images": IMAGE,
            "frame_rate": ("FLOAT", {"default": 8}),
            "loop_count": ("INT", {"default": 0}),
            "filename_prefix": ("STRING", {"default": "AnimateDiff"}),
            "format": (["image/gif", ["video/h264-mp4", {"x": 1}]],),
            "pingpong": ("BOOLEAN", {"default": False}),
            "save_output": ("BOOLEAN", {"default": True}),
        },
        "optional": {"audio": ("AUDIO",)},
    }

    def run(self, images: torch.Tensor, filename_prefix: str, format: str, **others: Any) -> dict[str, Any]:
        name = f"{filename_prefix.replace('/', '_')}_{time.time_ns()}.mp4"
        Path(folder_paths.get_output_directory(), name).write_bytes(b"\0\0\0 ftypisom" + os.urandom(2000))
        made = {"filename": name, "subfolder": "", "type": "output", "format": format, "workflow": "x.png"}
        return {"ui": {"gifs": [made]}, "result": ((True, [name]),)}


class CaseFrames(CaseNode):
    """Saves an animation whose first frame is black, like one that fades in."""

    OUTPUT_NODE, RETURN_TYPES = True, ()
    INPUTS: ClassVar = {"required": {"images": IMAGE}}

    def run(self, images: torch.Tensor) -> dict[str, Any]:
        picture = Image.fromarray((images[0].numpy() * 255).astype("uint8"))
        name = f"frames_{time.time_ns()}.webp"
        black = Image.new("RGB", picture.size)
        black.save(
            Path(folder_paths.get_output_directory(), name), save_all=True, append_images=[picture], lossless=True
        )
        return {"ui": {"images": [{"filename": name, "subfolder": "", "type": "output"}], "animated": (True,)}}


_NODES = (CaseNoise, CaseSeedInf, CaseRaise, CaseExtra, CaseApi, CaseVideo, CaseFrames)
NODE_CLASS_MAPPINGS = {**{node.__name__: node for node in _NODES}, "LoadText|case": CaseAnyStyle}
