"""Work of a node, ready to be timed: what it produces, needs in VRAM, reads and saves, and how long it takes."""

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
    """A node raised an exception; `kind` is the Python type that ComfyUI would report, `message` its text."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


@dataclass(frozen=True, slots=True)
class Picture:
    """A batch of pictures, masks or latents, sized in pixels; `key` identifies the content.

    For videos, each has `frames`, and a quarter as many latents.
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
        """Total number of pictures, counting each frame of a video."""
        return self.batch * self.frames

    @property
    def latents(self) -> int:
        """Total number of latents; four frames of a video share one."""
        return self.batch * (1 + (self.frames - 1) // 4)


@dataclass(frozen=True, slots=True)
class Conditioning:
    """Encoded text, with the ControlNets applied to it."""

    controlnets: tuple[Weights, ...] = ()


@dataclass(frozen=True, slots=True)
class Media:
    """How files are delivered: `kind` is the node's name for their list, `moving` puts all frames into one file.

    `format` is the requested media type, as the node reports it; `rate` is in frames per second.
    """

    kind: str = "images"
    suffix: str = ".png"
    moving: bool = False
    format: str = ""
    rate: float = 0.0


SOCKET = "websocket"
"""Takes the place of a folder for what SaveImageWebsocket delivers."""
PNG = Media()
"""Still pictures as SaveImage delivers them."""


@dataclass(frozen=True, slots=True)
class Save:
    """Pictures to be stored in a folder (`output` or `temp`), or sent to the client over its WebSocket (SOCKET).

    `prefix` None: the prefix of temporary files.
    """

    picture: Picture
    folder: str
    prefix: str | None
    media: Media = PNG


@dataclass(frozen=True, slots=True)
class NodeWork:
    """Work of one node; `seconds` exclude loading `needs` into VRAM, and progress is reported in `steps` equal steps.

    `kernels` is the share of `seconds` in which any kernel runs on the GPU: 0 for what the CPU does. `working` is the
    bytes of VRAM in addition to `needs`. If these do not fit, work that has `tiled` is repeated in tiles; `tiled` is
    the text that is then written to the log, and nowhere else.
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
    """One node about to run: its inputs with links resolved, its cache key, and the GPU it runs on."""

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
    """Return the bytes of VRAM for computing these pictures, besides the weights; videos run a few frames at a time."""
    return _WORKING_BYTES_PER_PIXEL * picture.pixels * picture.batch * min(picture.frames, _FRAMES_AT_ONCE)
