"""Reading workflows in API format: find the file, parse it, unwrap the graph and check it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from pytest_comfyload.errors import WorkflowError, nearest
from pytest_comfyload.workflow.graph import Graph, InputRef, link_of, replaced, spots
from pytest_comfyload.workflow.texts import read_text

__all__ = ["load_graph", "shipped_workflows"]

EDITOR_FORMAT = (
    "this is the editor's own format, which servers do not execute: export it with Workflow > Export (API) "
    "(older editors: tick Settings > Enable Dev mode options, then Save (API Format))"
)


def load_graph(
    source: str | os.PathLike[str] | Mapping[str, Any], root: Path | None
) -> tuple[str, Graph, Mapping[str, Any]]:
    """Return a workflow's name, its graph, and the `extra_data` that came with it.

    `source`: the name of a shipped workflow, the path of a .json file (relative to `root`, then to the working
    directory), or a dict. Raises WorkflowError.
    """
    if isinstance(source, Mapping):
        return "workflow", *_read_graph(source, "the workflow")
    path = _shipped(source) if isinstance(source, str) and _is_name(source) else source
    raw = _parsed(read_text(path, root, WorkflowError), path)
    return PurePath(path).stem, *_read_graph(raw, str(path))


def _read_graph(raw: object, origin: str) -> tuple[Graph, Mapping[str, Any]]:
    """Return copies of the graph in `raw` and of the `extra_data` that came with it. `origin` is its name in messages.

    The graph may be wrapped: in a POST /prompt body, in the request of a hosting service (`input.workflow`), or in the
    editor's own export (`output`). Links to a node by its number are read as links to its id. Keys of nodes other than
    class_type, inputs and _meta are dropped: an `is_changed` in a graph from a server's history would pin that
    server's cache.

    Raises:
        WorkflowError: `raw` contains no graph, several, or a malformed one.
    """
    nodes, extra_data = _unwrapped(raw, origin)
    if not isinstance(nodes, Mapping):
        raise WorkflowError(f"{origin}: a workflow is a JSON object of nodes, not {type(nodes).__name__}")
    if not nodes:
        raise WorkflowError(f"{origin}: the workflow is empty")
    graph = _copy({node_id: _read_node(node_id, node, origin) for node_id, node in nodes.items()}, origin)
    graph = replaced(graph, dict(_numbered_links(graph)))
    _refuse_dangling(graph, origin)
    return graph, _copy(extra_data, origin)


# Keys in which POST /prompt, hosting services and the editor wrap a graph.
_WRAPPERS = ("prompt", "output", "workflow", "input")
_DEEPEST = 4


def _unwrapped(raw: object, origin: str) -> tuple[object, dict[str, Any]]:
    """Return the object of nodes, and the extra_data of the bodies around it."""
    extra_data: dict[str, Any] = {}
    path: list[str] = []
    while isinstance(raw, Mapping) and not _has_nodes(raw) and len(path) < _DEEPEST:
        if _is_editors(raw):
            raise WorkflowError(f"{origin}{_at(path)}: {EDITOR_FORMAT}")
        holders = [key for key in _WRAPPERS if _holds_graph(raw.get(key))]
        if len(holders) > 1:
            raise WorkflowError(
                f"{origin}{_at(path)}: {' and '.join(map(repr, holders))} both hold a workflow; keep one"
            )
        wrapped = holders or [key for key in _WRAPPERS if isinstance(raw.get(key), Mapping)]
        if not wrapped:
            break
        extra_data = {**extra_data, **_extra_data(raw)}
        raw, path = raw[wrapped[0]], [*path, wrapped[0]]
    if path and not (isinstance(raw, Mapping) and _has_nodes(raw)):
        keys = (
            f"its keys are {', '.join(map(str, raw)) or 'none'}" if isinstance(raw, Mapping) else f"it is {raw!r:.40}"
        )
        raise WorkflowError(f"{origin}{_at(path)}: no workflow in API format, whose nodes have a class_type; {keys}")
    return raw, extra_data


def _at(path: list[str]) -> str:
    return f", under {'.'.join(path)!r}" if path else ""


def _has_nodes(raw: Mapping[str, Any]) -> bool:
    return any(isinstance(node, Mapping) and "class_type" in node for node in raw.values())


def _is_editors(raw: object) -> bool:
    return isinstance(raw, Mapping) and isinstance(raw.get("nodes"), list)


def _holds_graph(raw: object, depth: int = _DEEPEST) -> bool:
    if not isinstance(raw, Mapping) or depth == 0:
        return False
    return _has_nodes(raw) or any(_holds_graph(raw.get(key), depth - 1) for key in _WRAPPERS)


def _extra_data(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the editor would send with the graph: the `extra_data` of a body, the workflow of an export."""
    given = body.get("extra_data")
    exported = {"extra_pnginfo": {"workflow": body["workflow"]}} if _is_editors(body.get("workflow")) else {}
    return {**exported, **(given if isinstance(given, Mapping) else {})}


def _numbered_links(graph: Graph) -> Iterator[tuple[InputRef, Any]]:
    """Yield links such as [4, 0] as ["4", 0]: node ids are text, so a server would not find node 4."""
    for spot, value in spots(graph):
        match value:
            case [int(number), int() as slot] if not isinstance(number, bool) and str(number) in graph:
                yield spot, [str(number), slot]


def _read_node(node_id: object, node: object, origin: str) -> dict[str, Any]:
    if not isinstance(node_id, str):
        raise WorkflowError(f"{origin}: node ids are text: write {str(node_id)!r}, not {node_id!r}")
    if not isinstance(node, Mapping) or not isinstance(node.get("class_type"), str):
        raise WorkflowError(f"{origin}: node {node_id!r} has no class_type, so this is not a workflow in API format")
    inputs = node.get("inputs", {})
    if not isinstance(inputs, Mapping):
        raise WorkflowError(f"{origin}: the inputs of node {node_id!r} are not an object")
    meta = {"_meta": node["_meta"]} if isinstance(node.get("_meta"), Mapping) else {}
    return {"class_type": node["class_type"], "inputs": inputs, **meta}


def _copy(value: dict[str, Any], origin: str) -> dict[str, Any]:
    """Copy the value through JSON, as POST /prompt will send it."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
        copied: dict[str, Any] = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise WorkflowError(f"{origin}: has a value that JSON cannot represent: {error}") from None
    return copied


def _refuse_dangling(graph: Graph, origin: str) -> None:
    for spot, value in spots(graph):
        source = link_of(value)
        if source is not None and source not in graph:
            raise WorkflowError(f"{origin}: {spot} links to node {source!r}, which does not exist")


def shipped_workflows() -> list[str]:
    """Return the names of the workflows that come with the package."""
    return sorted(path.stem for path in _shipped_folder().glob("*.json"))


def _shipped_folder() -> Path:
    """Find the shipped workflows: inside an installed package, but next to the package in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "workflows"
    return inside if inside.is_dir() else package.parent / "workflows"


def _is_name(source: str) -> bool:
    return not source.lower().endswith(".json") and "/" not in source and "\\" not in source


def _shipped(name: str) -> Path:
    names = shipped_workflows()
    if name not in names:
        raise WorkflowError(
            f"no workflow {name!r}; shipped: {nearest(name, names)}; the path of your own ends in .json"
        )
    return _shipped_folder() / f"{name}.json"


def _parsed(text: str, source: str | os.PathLike[str]) -> object:
    try:
        parsed: object = json.loads(text)
    except json.JSONDecodeError as error:
        raise WorkflowError(f"{source}, line {error.lineno} column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise WorkflowError(f"{source}: {error}") from None
    _refuse_repeated_keys(text, source)
    return parsed


# In valid JSON: a string (a key if a colon follows), or the start or end of an object or array.
_TOKEN = re.compile(r'("(?:[^"\\]|\\.)*")(\s*:)?|([{[])|[]}]')


def _refuse_repeated_keys(text: str, source: str | os.PathLike[str]) -> None:
    """Raise WorkflowError for a repeated key: the JSON parser keeps only the last entry, so a node would be lost."""
    objects: list[dict[str, int]] = []
    for token in _TOKEN.finditer(text):
        key, colon, opens = token.groups()
        if opens:
            objects.append({})
        elif key is None:
            objects.pop()
        elif colon and (first := objects[-1].setdefault(key, token.start())) != token.start():
            lines = [text.count("\n", 0, at) + 1 for at in (first, token.start())]
            raise WorkflowError(
                f"{source}, line {lines[1]}: duplicate key {key}, first in line {lines[0]}; JSON keeps only the last: "
                "give each its own name"
            )
