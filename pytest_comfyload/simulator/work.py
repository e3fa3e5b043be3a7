"""Work is what a node does, ready to be timed: what it makes, needs in VRAM, reads, saves, and how long it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pytest_comfyload.simulator.timing import Gpu
from pytest_comfyload.simulator.weights import Weights

__all__ = ["Call", "Conditioning", "NodeFailure", "Picture", "Save", "Work"]

_T = TypeVar("_T")


class NodeFailure(Exception):
    """A node raised; `kind` is the Python type that ComfyUI would name, `message` its text."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


@dataclass(frozen=True, slots=True)
class Picture:
    """A batch of pictures, masks or latents, sized in pixels; `key` stands for the content."""

    width: int
    height: int
    batch: int
    key: str

    @property
    def pixels(self) -> int:
        return self.width * self.height


@dataclass(frozen=True, slots=True)
class Conditioning:
    """Encoded text, with the ControlNets applied to it."""

    controlnets: tuple[Weights, ...] = ()


@dataclass(frozen=True, slots=True)
class Save:
    """Pictures to be stored in a folder (`output` or `temp`); no prefix means the folder's own."""

    picture: Picture
    folder: str
    prefix: str | None


@dataclass(frozen=True, slots=True)
class Work:
    """`seconds` exclude moving `needs` into VRAM; with `steps`, progress is told in so many equal steps.

    `kernels` is the share of `seconds` in which some kernel runs on the GPU: nothing for what the CPU does.
    `working` are the bytes of VRAM beside `needs`. Work that has `tiled` is done again in tiles where they do not fit;
    that is the text which the log then gets, and nobody else.
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
