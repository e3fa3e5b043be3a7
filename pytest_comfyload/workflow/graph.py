"""A graph is what POST /prompt takes: node id -> class_type, inputs, _meta. It is read here once and never mutated."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from pytest_comfyload.errors import WorkflowError

__all__ = [
    "Graph", "InputRef", "downstream", "link_of", "literal_spot", "read_graph", "replaced", "spots", "title_of",
    "upstream", "value_at",
]  # fmt: skip

Graph: TypeAlias = Mapping[str, Mapping[str, Any]]

EDITOR_FORMAT = (
    "this is the editor's own format, which servers do not execute: export it with Workflow > Export (API) "
    "(older editors: tick Settings > Enable Dev mode options, then Save (API Format))"
)


class InputRef(NamedTuple):
    """One input of one node."""

    node: str
    input: str

    def __str__(self) -> str:
        return f"{self.node}.{self.input}"


def read_graph(raw: object, origin: str) -> tuple[Graph, Mapping[str, Any]]:
    """Read the graph in `raw`, and the `extra_data` that came with it; both are copies. `origin` names it in messages.

    The graph may be wrapped: in a POST /prompt body, in the request of a hosting service (`input.workflow`), or in the
    editor's own export (`output`). Links to a node by its number are read as links to its id. Keys of nodes other than
    class_type, inputs and _meta are dropped: an `is_changed` that comes with a graph taken from a server's history
    would pin that server's cache.

    Raises:
        WorkflowError: It holds no graph, several, or a broken one.
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


# Keys that a graph is wrapped in, by POST /prompt, by hosting services, and by the editor.
_WRAPPERS = ("prompt", "output", "workflow", "input")
_DEEPEST = 4


def _unwrapped(raw: object, origin: str) -> tuple[object, dict[str, Any]]:
    """The object of nodes, and the extra_data of the bodies around it."""
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
    """What the editor would send with the graph: the `extra_data` of a body, the workflow of an export."""
    given = body.get("extra_data")
    exported = {"extra_pnginfo": {"workflow": body["workflow"]}} if _is_editors(body.get("workflow")) else {}
    return {**exported, **(given if isinstance(given, Mapping) else {})}


def _numbered_links(graph: Graph) -> Iterator[tuple[InputRef, Any]]:
    """Links such as [4, 0]: a server looks for the node under its id, "4", and would not find it."""
    for spot, value in spots(graph):
        match value:
            case [int(number), int() as slot] if not isinstance(number, bool) and str(number) in graph:
                yield spot, [str(number), slot]


def _read_node(node_id: object, node: object, origin: str) -> dict[str, Any]:
    if not isinstance(node_id, str):
        raise WorkflowError(f"{origin}: node ids are text: write {str(node_id)!r}, not {node_id!r}")
    if not isinstance(node, Mapping) or not isinstance(node.get("class_type"), str):
        raise WorkflowError(f"{origin}: node {node_id!r} has no class_type, so that this is no workflow in API format")
    inputs = node.get("inputs", {})
    if not isinstance(inputs, Mapping):
        raise WorkflowError(f"{origin}: the inputs of node {node_id!r} are not an object")
    meta = {"_meta": node["_meta"]} if isinstance(node.get("_meta"), Mapping) else {}
    return {"class_type": node["class_type"], "inputs": inputs, **meta}


def _copy(value: dict[str, Any], origin: str) -> dict[str, Any]:
    """The value through JSON and back: deep-copied, and sure to survive the POST."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
        copied: dict[str, Any] = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise WorkflowError(f"{origin}: holds what JSON cannot carry: {error}") from None
    return copied


def _refuse_dangling(graph: Graph, origin: str) -> None:
    for spot, value in spots(graph):
        source = link_of(value)
        if source is not None and source not in graph:
            raise WorkflowError(f"{origin}: {spot} links to node {source!r}, which is not there")


def spots(graph: Graph) -> Iterator[tuple[InputRef, Any]]:
    """Every input of every node, with its value."""
    for node_id, node in graph.items():
        for name, value in node["inputs"].items():
            yield InputRef(node_id, name), value


def link_of(value: object) -> str | None:
    """The id of the node that `value` links to, or None for a literal; told apart as the server tells them."""
    match value:
        case [str(node_id), int() | float()]:
            return node_id
    return None


def title_of(node: Mapping[str, Any]) -> str:
    """The title a person gave the node; empty if there is none or it only repeats the class."""
    title = node.get("_meta", {}).get("title")
    return title if isinstance(title, str) and title != node["class_type"] else ""


def value_at(graph: Graph, spot: InputRef) -> Any:
    """The literal or link at `spot`; None if the input is not there."""
    return graph[spot.node]["inputs"].get(spot.input)


def replaced(graph: Graph, values: Mapping[InputRef, Any]) -> dict[str, Any]:
    """The graph with other values at some spots; nodes without change are shared."""
    changed: dict[str, dict[str, Any]] = {}
    for spot, value in values.items():
        changed.setdefault(spot.node, {})[spot.input] = value
    return {
        node_id: {**node, "inputs": {**node["inputs"], **changed[node_id]}} if node_id in changed else node
        for node_id, node in graph.items()
    }


def upstream(graph: Graph, node_ids: Iterable[str]) -> frozenset[str]:
    """These nodes and all that feed them."""
    return _closure(node_ids, _sources(graph))


def downstream(graph: Graph, node_ids: Iterable[str]) -> frozenset[str]:
    """These nodes and all that they feed."""
    fed: dict[str, list[str]] = {node_id: [] for node_id in graph}
    for node_id, sources in _sources(graph).items():
        for source in sources:
            fed[source].append(node_id)
    return _closure(node_ids, fed)


def _sources(graph: Graph) -> dict[str, list[str]]:
    """The nodes that each node links to."""
    return {
        node_id: [source for value in node["inputs"].values() if (source := link_of(value)) is not None]
        for node_id, node in graph.items()
    }


def _closure(node_ids: Iterable[str], neighbours: Mapping[str, Iterable[str]]) -> frozenset[str]:
    pending, seen = list(node_ids), set[str]()
    while pending:
        here = pending.pop()
        if here not in seen:
            seen.add(here)
            pending += neighbours[here]
    return frozenset(seen)


def literal_spot(
    graph: Graph, spot: InputRef, holds: Callable[[object], bool], carries: Callable[[str], bool]
) -> InputRef | None:
    """Where the literal stands that feeds `spot`: there, or at the source of its link.

    At a source that is the input whose name `carries` says so, or the only one that is a link or that `holds` accepts.
    """
    seen: set[InputRef] = set()
    here: InputRef | None = spot
    while here is not None and here not in seen:
        seen.add(here)
        value = value_at(graph, here)
        source = link_of(value)
        if source is None:
            return here if holds(value) else None
        here = _feeding_input(graph, source, holds, carries)
    return None


def _feeding_input(
    graph: Graph, node_id: str, holds: Callable[[object], bool], carries: Callable[[str], bool]
) -> InputRef | None:
    inputs = graph[node_id]["inputs"]
    fitting = [name for name, value in inputs.items() if holds(value) or link_of(value) is not None]
    named = [name for name in fitting if carries(name)]
    chosen = named or fitting
    return InputRef(node_id, chosen[0]) if len(chosen) == 1 else None
