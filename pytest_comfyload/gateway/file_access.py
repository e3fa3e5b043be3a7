"""File access: users may read, and name in prompts, their own outputs, their own uploads, and inputs without an owner.

ComfyUI resolves names in several ways (annotations such as `a.png [output]`, `..`, paths in a file name), each of which
could reach files of other users. Names that are not plain are therefore refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pytest_comfyload.gateway.prompt_store import PromptStore
from pytest_comfyload.gateway.rewriting import split
from pytest_comfyload.protocol.json_values import as_dict, as_list

__all__ = ["FileReference", "NotAccessible", "claim_inputs", "input_path", "is_plain", "named_files", "resolve_file"]

# Maximum number of file names that are looked up per prompt.
_MOST_NAMES = 50
_SHORTEST, _LONGEST = 3, 500


class NotAccessible(Exception):
    """A file does not exist, or the user may not access it; users cannot tell which."""


@dataclass(frozen=True, slots=True)
class FileReference:
    """A file on `worker` (empty: on any worker), under the worker's own names."""

    worker: str
    filename: str
    subfolder: str
    type: str

    def query(self) -> dict[str, str]:
        """Return the query parameters of /view for this file."""
        return {"filename": self.filename, "subfolder": self.subfolder, "type": self.type}


def input_path(subfolder: str, filename: str) -> str:
    """Return the key under which the owner of an uploaded file is stored."""
    return f"input/{PurePosixPath(subfolder, filename)}"


async def resolve_file(store: PromptStore, user: str, reference: Mapping[str, Any]) -> FileReference:
    """Return the file that a user refers to by filename, subfolder and type.

    Raises: NotAccessible for a name that is not plain or a file of another user; StoreUnavailable.
    """
    kind, subfolder = str(reference.get("type") or "output"), str(reference.get("subfolder") or "")
    filename = str(reference.get("filename") or "")
    if not is_plain(filename) or "/" in filename or not (subfolder == "" or is_plain(subfolder)):
        raise NotAccessible(filename)
    if kind == "input":
        if await store.owner_of(input_path(subfolder, filename)) not in ("", user):
            raise NotAccessible(filename)
        return FileReference("", filename, subfolder, kind)
    if await store.owner_of(f"{kind}/{subfolder}/{filename}") != user:
        raise NotAccessible(filename)
    worker, folder = split(subfolder)
    return FileReference(worker, filename, folder, kind)


async def claim_inputs(
    store: PromptStore, user: str, graph: Mapping[str, Any], classes: Mapping[str, Any]
) -> tuple[Mapping[str, Any], str]:
    """Resolve the user's files that a prompt reads.

    Returns:
        The prompt, in which files from earlier outputs have the names that their worker uses, and the name of that
        worker; empty if the prompt reads no such files, and any worker can execute it.

    Raises: NotAccessible, also for outputs of several workers; StoreUnavailable.
    """
    workers: set[str] = set()
    changed: dict[str, dict[str, Any]] = {}
    for node_id, name, value in _upload_inputs(graph, classes):
        path, kind = _annotated(value)
        found = PurePosixPath(path)
        folder = "" if str(found.parent) == "." else str(found.parent)
        reference = {"filename": found.name, "subfolder": folder, "type": kind}
        file = await resolve_file(store, user, reference) if is_plain(path) else None
        if file is None:
            raise NotAccessible(value)
        if file.worker:
            workers.add(file.worker)
            changed.setdefault(node_id, {})[name] = f"{PurePosixPath(file.subfolder, file.filename)} [{kind}]"
    if len(workers) > 1:
        raise NotAccessible("outputs of several workers")
    for path in named_files(graph):
        if await store.owner_of(f"input/{path}") not in ("", user):
            raise NotAccessible(path)
    nodes = {
        id: {**node, "inputs": {**node["inputs"], **changed[id]}} if id in changed else node
        for id, node in graph.items()
    }
    return nodes, next(iter(workers), "")


def named_files(graph: Mapping[str, Any]) -> list[str]:
    """Return the strings in a prompt that may name an uploaded file: `subfolder/name.ext`."""
    texts = (
        value
        for node in graph.values()
        for value in as_dict(as_dict(node).get("inputs")).values()
        if isinstance(value, str) and _SHORTEST < len(value) < _LONGEST and "\n" not in value
    )
    names = (each.removesuffix(" [input]").replace("\\", "/") for each in texts)
    return list(dict.fromkeys(each for each in names if "." in each[-8:]))[:_MOST_NAMES]


def _upload_inputs(graph: Mapping[str, Any], classes: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield node id, input name and value of each input that names a user's file."""
    for node_id, node in graph.items():
        declared = as_dict(as_dict(classes.get(node["class_type"])).get("input"))
        for section in ("required", "optional"):
            for name, declaration in as_dict(declared.get(section)).items():
                value = as_dict(node.get("inputs")).get(name)
                settings = as_dict(declaration[1] if len(as_list(declaration)) > 1 else None)
                if isinstance(value, str) and any(str(key).endswith("_upload") for key in settings):
                    yield node_id, name, value


def _annotated(value: str) -> tuple[str, str]:
    """Split `a.png [output]` into the path and the type."""
    for kind in ("output", "input", "temp"):
        if value.endswith(f"[{kind}]"):
            return value.removesuffix(f"[{kind}]").rstrip(" "), kind
    return value, "input"


def is_plain(path: str) -> bool:
    """Return whether ComfyUI takes a relative path literally on any platform: without `..`, `\\`, `:` or annotation."""
    parts = path.split("/")
    return not ("\\" in path or ":" in path or path.endswith("]") or any(part in ("", ".", "..") for part in parts))
