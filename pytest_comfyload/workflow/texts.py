"""Prompt texts and the files that they are read from."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from pytest_comfyload.errors import UsageError

__all__ = ["DEFAULT_TEXTS", "PromptText", "load_texts", "read_bytes", "read_text"]

# Short and long, indoors and outdoors: token count and content must not favour one cache or one model.
DEFAULT_TEXTS = (
    "a lighthouse on a rocky coast at dawn, soft fog, photograph",
    "bowl of ripe oranges on a wooden table by a window, oil painting, warm afternoon light",
    "narrow street of an old town after rain, reflections of shop signs, people with umbrellas, wide angle",
    "portrait of an elderly clockmaker in a workshop",
    "isometric drawing of a small greenhouse with ferns and tomato plants, clean lines, muted pastel colours, 4k",
)


KEY = "prompt"


@dataclass(frozen=True, slots=True)
class PromptText:
    """A positive prompt, and the inputs that come with it, by address; `origin` is where it was read."""

    text: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    origin: str = field(default="prompts", compare=False)


def load_texts(source: str | os.PathLike[str] | Sequence[str], *, root: Path | None = None) -> tuple[PromptText, ...]:
    """Return the prompts of a list, or of a file in UTF-8.

    .jsonl: one object per line, with its text under "prompt"; every other key is an input, `"KSampler.steps": 20`.
    .csv: the column named prompt; if the first row has no such name, the first column of every row.
    Any other file: one text per line; blank lines and those starting with # are skipped.

    Raises UsageError, with the line, if the file cannot be read, an item is not a text, or nothing remains.
    """
    if isinstance(source, str | os.PathLike):
        return _from_file(source, root)
    if not source:
        raise UsageError("prompts: the list is empty")
    return tuple(PromptText(_checked(text)) for text in source)


def _from_file(source: str | os.PathLike[str], root: Path | None) -> tuple[PromptText, ...]:
    name = os.fspath(source)
    try:
        content = read_text(source, root)
    except UsageError as error:
        raise UsageError(f"prompts: {error}; a text of its own is given as a list: [{name!r}]") from None
    read = _READERS.get(PurePath(name).suffix.lower(), _plain)
    texts = tuple(read(content, name))
    if not texts:
        raise UsageError(f"prompts: {name} has no line of text")
    return texts


def _plain(content: str, name: str) -> Iterator[PromptText]:
    lines = (line.strip() for line in content.splitlines())
    return (PromptText(line) for line in lines if line and not line.startswith("#"))


def _csv(content: str, name: str) -> Iterator[PromptText]:
    reader = csv.reader(io.StringIO(content), strict=True)
    column: int | None = None
    try:
        for row in reader:
            if column is None:
                names = [cell.strip().lower() for cell in row]
                column = names.index(KEY) if KEY in names else 0
                if KEY in names:
                    continue
            if any(cell.strip() for cell in row):
                yield PromptText(_cell(row, column, f"{name}, line {reader.line_num}"))
    except csv.Error as error:
        raise UsageError(f"prompts: {name}, line {reader.line_num}: {error}") from None


def _cell(row: Sequence[str], column: int, where: str) -> str:
    text = row[column].strip() if column < len(row) else ""
    if not text:
        raise UsageError(f"prompts: {where}: no text in column {column + 1}; the row is {','.join(row)!r}")
    return text


def _jsonl(content: str, name: str) -> Iterator[PromptText]:
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            yield _from_object(line, f"{name}, line {number}")


def _from_object(line: str, where: str) -> PromptText:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"prompts: {where}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise UsageError(f'prompts: {where}: not an object such as {{"{KEY}": "a cat"}}')
    text, inputs = row.pop(KEY, None), row
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"prompts: {where}: {text!r} under {KEY!r} is not a text; keys: {', '.join(row) or 'none'}")
    for address in inputs:
        if "." not in address:
            raise UsageError(
                f"prompts: {where}: the key {address!r} is not an input; write NODE.INPUT, as in KSampler.steps"
            )
    return PromptText(text, inputs, f"prompts: {where}")


_READERS: Mapping[str, Callable[[str, str], Iterator[PromptText]]] = {".csv": _csv, ".jsonl": _jsonl}


def _checked(text: object) -> str:
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"prompts: {text!r} is not a text")
    return text


def read_text(source: str | os.PathLike[str], root: Path | None, blame: type[UsageError] = UsageError) -> str:
    """Return the text of the file `source`, relative to `root`, then to the working directory.

    Raises `blame` if there is no such file, or it is not UTF-8 text.
    """
    path, content = _found(source, root, blame)
    try:
        # With universal newlines, as in a file opened in text mode.
        return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig").read()
    except UnicodeDecodeError as error:
        raise blame(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None


def read_bytes(source: str | os.PathLike[str], root: Path | None, blame: type[UsageError] = UsageError) -> bytes:
    """Return the content of the file `source`, located as in `read_text`. Raises `blame` if there is no such file."""
    return _found(source, root, blame)[1]


def _found(source: str | os.PathLike[str], root: Path | None, blame: type[UsageError]) -> tuple[Path, bytes]:
    folders = [Path.cwd()] if root is None else [root, Path.cwd()]
    for path in (folder / source for folder in folders):
        try:
            return path, path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            raise blame(f"cannot read {str(source)!r}: {getattr(error, 'strerror', None) or error}") from None
    looked_in = ", ".join(str(folder) for folder in dict.fromkeys(folders))
    raise blame(f"no file {str(source)!r} in {looked_in}")
