"""The files that prompts produce: what is recorded about each, and which of them are results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pytest_comfyload.protocol.outputs import is_picture

__all__ = ["SOCKET", "FetchedFile", "results_of"]

# The type of a picture that arrived over the WebSocket; the server has no file of it.
SOCKET = "websocket"
# Types of files that are not results: previews, and files that a node read.
_INTERIM = ("temp", "input")


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """One output file.

    `size` is in bytes, None if it was not fetched; `width` and `height` of a picture are in pixels. Of a decoded
    picture, `pixels` is a hash of its pixels, which does not depend on the file's metadata, and `blank` says whether
    every channel is constant in every frame.
    """

    node_id: str
    kind: str
    filename: str
    subfolder: str
    type: str
    size: int | None = None
    width: int | None = None
    height: int | None = None
    pixels: str | None = None
    blank: bool = False

    @property
    def is_picture(self) -> bool:
        """Whether its name is that of a picture, animations included."""
        return is_picture(self.filename)


class _File(Protocol):
    @property
    def type(self) -> str: ...


_F = TypeVar("_F", bound=_File)


def results_of(files: Sequence[_F]) -> tuple[_F, ...]:
    """Return the files that a workflow is run for; previews only if there is nothing else."""
    if len(files) < 2:
        return tuple(files)
    return tuple([file for file in files if file.type not in _INTERIM]) or tuple(files)
