"""The files that prompts deliver: what is kept of each, and which of them are results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pytest_comfyload.protocol.bodies import is_picture

__all__ = ["SOCKET", "FetchedFile", "results_of"]

# The type of a picture that came by the WebSocket: no file is on the server.
SOCKET = "websocket"
# Types of files that are made on the way: previews, and what a node read.
_INTERIM = ("temp", "input")


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """One output; `size` in bytes where it was fetched. Of a picture the width and height in pixels. Where it was
    decoded, `pixels` is a hash of them, the same for the same picture, whatever the file says of its making, and
    `blank` says that every channel is constant, in every frame.
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
        """Whether its name says that it is a picture, moving ones among them."""
        return is_picture(self.filename)


class _File(Protocol):
    @property
    def type(self) -> str: ...


_F = TypeVar("_F", bound=_File)


def results_of(files: Sequence[_F]) -> tuple[_F, ...]:
    """Return the files that a workflow is run for; previews only where there is nothing else."""
    if len(files) < 2:
        return tuple(files)
    return tuple([file for file in files if file.type not in _INTERIM]) or tuple(files)
