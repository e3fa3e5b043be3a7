"""The outputs of nodes as servers report them: files, pictures among them, and texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pytest_comfyload.protocol.json_values import as_list, storable, text_of

__all__ = ["OutputFile", "is_picture", "output_files", "output_texts"]


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One output file of a node; `kind` is the node's own name for it (images, gifs, video, audio …)."""

    node_id: str
    kind: str
    filename: str
    subfolder: str
    type: str


def output_files(outputs: Mapping[str, Mapping[str, Any]]) -> tuple[OutputFile, ...]:
    """Return every file in a prompt's outputs once, regardless of the names of the lists that contain it."""
    files = (
        OutputFile(
            storable(node_id),
            storable(kind),
            storable(item["filename"]),
            text_of(item.get("subfolder")),
            text_of(item.get("type")) or "output",
        )
        for node_id, output in outputs.items()
        for kind, items in output.items()
        for item in as_list(items)
        if isinstance(item, dict) and isinstance(item.get("filename"), str)
    )
    return tuple({(file.filename, file.subfolder, file.type): file for file in files}.values())


# Texts of one prompt that are kept in the run.
MOST_TEXTS = 100

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")


def is_picture(filename: str) -> bool:
    """Return whether a file is a picture, or an animation in a picture format, judging by its name."""
    name = filename.lower()
    return name.endswith(_PICTURES) and name.rpartition("/")[2] not in _PICTURES


def output_texts(outputs: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the texts that nodes show the user, limited to the number that a run keeps of each prompt."""
    texts = (item for output in outputs.values() for item in as_list(output.get("text")) if isinstance(item, str))
    return tuple(map(storable, islice(texts, MOST_TEXTS)))
