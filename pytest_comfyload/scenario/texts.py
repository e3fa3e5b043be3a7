"""Prompt texts: what the positive prompts of a load say, in turn."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pytest_comfyload.errors import UsageError
from pytest_comfyload.scenario.files import read_text

__all__ = ["DEFAULT_TEXTS", "load_texts"]

# Short and long, indoors and out: token count and content must not favour one cache or one model.
DEFAULT_TEXTS = (
    "a lighthouse on a rocky coast at dawn, soft fog, photograph",
    "bowl of ripe oranges on a wooden table by a window, oil painting, warm afternoon light",
    "narrow street of an old town after rain, reflections of shop signs, people with umbrellas, wide angle",
    "portrait of an elderly clockmaker in a workshop",
    "isometric drawing of a small greenhouse with ferns and tomato plants, clean lines, muted pastel colours, 4k",
)


def load_texts(source: str | os.PathLike[str] | Sequence[str], *, root: Path | None = None) -> tuple[str, ...]:
    """The texts of a list, or of a file with one per line; blank lines and those starting with # are skipped.

    Raises UsageError if the file cannot be read, an item is no text, or nothing remains.
    """
    if isinstance(source, str | os.PathLike):
        return _from_file(source, root)
    if not source:
        raise UsageError("prompts: the list is empty")
    return tuple(_checked(text) for text in source)


def _from_file(source: str | os.PathLike[str], root: Path | None) -> tuple[str, ...]:
    try:
        lines = [line.strip() for line in read_text(source, root).splitlines()]
    except UsageError as error:
        raise UsageError(f"prompts: {error}; a text of its own is given as a list: [{os.fspath(source)!r}]") from None
    texts = tuple(line for line in lines if line and not line.startswith("#"))
    if not texts:
        raise UsageError(f"prompts: {os.fspath(source)} has no line of text")
    return texts


def _checked(text: object) -> str:
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"prompts: {text!r} is not a text")
    return text
