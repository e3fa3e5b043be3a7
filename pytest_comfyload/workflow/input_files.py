"""The files that a run's workflow loads: packaged pictures by name, a user's own by `pathlib.Path`.

What a server holds under one of their names is what the name stands for: a packaged picture never changes, and the
name of a user's own file has its content's hash in it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from pytest_comfyload.errors import UsageError, WorkflowError, nearest
from pytest_comfyload.workflow.graph import spots
from pytest_comfyload.workflow.pictures import PICTURES, draw
from pytest_comfyload.workflow.texts import read_bytes
from pytest_comfyload.workflow.workflow import Workflow

__all__ = ["FOLDER", "InputFile", "input_files", "with_local_files"]

FOLDER = "comfyload"


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file in the subfolder `comfyload` of a server's input folder; `content()` may take a moment.

    `lasting`: what a server has under the name is what it stands for.
    """

    name: str
    content: Callable[[], bytes]
    lasting: bool = True

    @property
    def value(self) -> str:
        """What a node's input says to mean this file."""
        return f"{FOLDER}/{self.name}"


def with_local_files(inputs: Mapping[str, Any], root: Path) -> tuple[dict[str, Any], list[InputFile]]:
    """The inputs with each pathlib path as the value that means its upload, and the files to upload.

    Raises UsageError if one cannot be read.
    """
    files = {
        address: _local_file(address, value, root) for address, value in inputs.items() if isinstance(value, PurePath)
    }
    return {**inputs, **{address: file.value for address, file in files.items()}}, list(files.values())


def _local_file(address: str, path: PurePath, root: Path) -> InputFile:
    try:
        content = read_bytes(path, root)
    except UsageError as error:
        raise UsageError(f"inputs: {address}: {error}") from None
    digest = hashlib.sha256(content).hexdigest()[:12]
    return InputFile(f"{path.stem}-{digest}{path.suffix}", lambda: content)


def input_files(workflow: Workflow, local: Sequence[InputFile]) -> list[InputFile]:
    """Every file of ours that the workflow names: the `local` ones, and the packaged pictures.

    Raises WorkflowError for a `comfyload/…` that is neither.
    """
    known = {file.value: file for file in local}
    files: dict[str, InputFile] = {}
    for spot, value in spots(workflow.graph):
        if _is_ours(value) and (spec := workflow.nodes.spec(spot)) and spec.upload:
            value = value.removesuffix(" [input]")
            where = f"node {spot.node} {workflow.nodes.class_of(spot.node)}.{spot.input}"
            files[value] = known.get(value) or _packaged(value, where)
    return list(files.values())


def _is_ours(value: object) -> bool:
    return isinstance(value, str) and value.startswith(f"{FOLDER}/") and not value.endswith(("[output]", "[temp]"))


def _packaged(value: str, where: str) -> InputFile:
    name = value.removeprefix(f"{FOLDER}/")
    if name not in PICTURES:
        legal = nearest(value, (f"{FOLDER}/{each}" for each in PICTURES))
        raise WorkflowError(f"{where} = {value!r}: packaged pictures are {legal}; one of your own is pathlib.Path(…)")
    return InputFile(name, functools.partial(draw, name))
