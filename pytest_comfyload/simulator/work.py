"""Work is what a node does, ready to be timed: what it makes, needs in VRAM, reads, saves, and how long it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pytest_comfyload.simulator.timing import Gpu
from pytest_comfyload.simulator.vram import Weights

__all__ = [
    "PNG",
    "SOCKET",
    "Call",
    "Conditioning",
    "Media",
    "NodeFailure",
    "NodeWork",
    "Picture",
    "Save",
    "is_link",
    "working_bytes",
]  # fmt: skip

_T = TypeVar("_T")
_WORKING_BYTES_PER_PIXEL = 1_500
_FRAMES_AT_ONCE = 4


def is_link(value: Any) -> bool:
    """Return whether an input value is a link [node id, output slot] rather than a literal."""
    return (
        isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int | float)
    )


class NodeFailure(Exception):
    """A node raised; `kind` is the Python type that ComfyUI would name, `message` its text."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


@dataclass(frozen=True, slots=True)
class Picture:
    """A batch of pictures, masks or latents, sized in pixels; `key` stands for the content.

    Each has `frames` where it is a video, of which the latent has a quarter.
    """

    width: int
    height: int
    batch: int
    key: str
    frames: int = 1

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def images(self) -> int:
        """Pictures in all, each frame of a video being one."""
        return self.batch * self.frames

    @property
    def latents(self) -> int:
        """Latents in all, with the four frames of a video that share one."""
        return self.batch * (1 + (self.frames - 1) // 4)


@dataclass(frozen=True, slots=True)
class Conditioning:
    """Encoded text, with the ControlNets applied to it."""

    controlnets: tuple[Weights, ...] = ()


@dataclass(frozen=True, slots=True)
class Media:
    """How files are delivered: `kind` is the node's word for their list, `moving` makes one file of all frames.

    `format` is the media type that the node was asked for, as it reports it; `rate` are frames per second.
    """

    kind: str = "images"
    suffix: str = ".png"
    moving: bool = False
    format: str = ""
    rate: float = 0.0


SOCKET = "websocket"
"""In place of a folder: what SaveImageWebsocket delivers."""
PNG = Media()
"""Still pictures as SaveImage delivers them."""


@dataclass(frozen=True, slots=True)
class Save:
    """Pictures to be stored in a folder (`output` or `temp`), or sent to the client by its WebSocket (SOCKET).

    No prefix means the folder's own.
    """

    picture: Picture
    folder: str
    prefix: str | None
    media: Media = PNG


@dataclass(frozen=True, slots=True)
class NodeWork:
    """`seconds` exclude moving `needs` into VRAM; with `steps`, progress is told in so many equal steps.

    `kernels` is the share of `seconds` in which some kernel runs on the GPU: nothing for what the CPU does.
    `working` are the bytes of VRAM beside `needs`. Work that has `tiled` is done again in tiles where they do not fit;
    that is the text which only the log then gets.
    """

    outputs: tuple[Any, ...] = ()
    seconds: float = 0.0
    kernels: float = 0.0
    steps: int = 0
    needs: tuple[Weights, ...] = ()
    working: int = 0
    tiled: str | None = None
    read: str | None = None
    save: Save | None = None
    preview: Picture | None = None
    noisy: bool = True


@dataclass(frozen=True, slots=True)
class Call:
    """One node about to run: its inputs with links followed, its cache key, and the GPU it runs on."""

    inputs: Mapping[str, Any]
    key: str
    gpu: Gpu
    uploaded_size: Callable[[str], tuple[int, int]]

    def whole(self, name: str) -> int:
        return int(self.inputs[name])

    def weights(self, name: str) -> Weights:
        return self._typed(name, Weights, "patcher")

    def picture(self, name: str) -> Picture:
        return self._typed(name, Picture, "shape")

    def conditioning(self, name: str) -> Conditioning:
        return self._typed(name, Conditioning, "copy")

    def _typed(self, name: str, kind: type[_T], missing: str) -> _T:
        value = self.inputs[name]
        if not isinstance(value, kind):
            raise NodeFailure("AttributeError", f"'{type(value).__name__}' object has no attribute '{missing}'\n")
        return value


def working_bytes(picture: Picture) -> int:
    """Bytes of VRAM that computing these pictures takes beside the weights; videos are computed a few frames a time."""
    return _WORKING_BYTES_PER_PIXEL * picture.pixels * picture.batch * min(picture.frames, _FRAMES_AT_ONCE)
