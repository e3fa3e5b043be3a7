"""What in a workflow contradicts /object_info. The server itself is the judge: this explains why it refuses a prompt.

What a class declares is not all of what a server accepts: nodes validate inputs of their own, and list files late.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_comfyload.errors import WorkflowNotServable, close_to
from pytest_comfyload.workflow.graph import Graph, InputRef, link_of, replaced, value_at
from pytest_comfyload.workflow.object_info import InputSpec, ObjectInfo
from pytest_comfyload.workflow.workflow import Workflow

__all__ = ["Objection", "not_servable", "objections", "paid_nodes", "refuse_paid", "respelled"]

SHOWN = 7


@dataclass(frozen=True, slots=True)
class Objection:
    """One thing in a graph that contradicts /object_info; `spot` None: it concerns no single input."""

    sentence: str
    spot: InputRef | None = None


def objections(graph: Graph, object_info: ObjectInfo) -> list[Objection]:
    """Find what the server seems to lack, or to refuse, by what it says of its classes.

    As on the server, inputs count only in nodes that lead to an output, while every class must be there.
    """
    executed = _executed(graph, object_info)
    none = [] if executed else [Objection("none of its nodes is an output, such as SaveImage or PreviewImage")]
    return [*_missing_classes(graph, object_info), *_bad_inputs(graph, executed, object_info), *none]


def not_servable(
    name: str, server: str, found: Sequence[Objection], faults: Iterable[tuple[str, str, str]], said: str
) -> WorkflowNotServable:
    """The error for a workflow that the server has refused, with the nearest legal values where they are known.

    Args:
        name: The workflow's.
        server: The URL.
        found: What in the workflow contradicts /object_info.
        faults: What the server said: node, input, and its words.
        said: The server's words about the whole.
    """
    known = {each.spot: each.sentence for each in found}
    lines = [known.get(InputRef(node, name), words) for node, name, words in faults]
    lines = lines or [each.sentence for each in found if each.spot is None] or [said]
    return WorkflowNotServable(_message(name, server, list(dict.fromkeys(lines))))


def respelled(workflow: Workflow) -> Workflow:
    """The workflow with the server's spelling of its file names (`a\\b` or `a/b`), where the server has them."""
    graph, object_info = workflow.graph, workflow.object_info
    return replace(workflow, graph=_respelled(graph, _executed(graph, object_info), object_info))


def refuse_paid(workflow: Workflow, server: str) -> None:
    """Raise WorkflowNotServable for a workflow with nodes that cost money."""
    paid = [
        f"node {each} {workflow.graph[each]['class_type']} costs money at every prompt: allow_api_nodes=True permits it"
        for each in paid_nodes(workflow.graph, workflow.object_info)
    ]
    if paid:
        raise WorkflowNotServable(_message(workflow.name, server, paid))


def paid_nodes(graph: Graph, object_info: ObjectInfo) -> list[str]:
    """The nodes that lead to an output and cost money at every prompt."""
    executed = _executed(graph, object_info)
    return [each for each in executed if object_info.entry(graph[each]["class_type"]).get("api_node")]


def _executed(graph: Graph, object_info: ObjectInfo) -> list[str]:
    """The nodes that lead to an output; an unknown class counts as one."""
    pending = [
        node_id
        for node_id, node in graph.items()
        if node["class_type"] not in object_info or object_info.entry(node["class_type"]).get("output_node")
    ]
    seen: set[str] = set()
    while pending:
        node_id = pending.pop()
        if node_id not in seen:
            seen.add(node_id)
            sources = map(link_of, graph[node_id]["inputs"].values())
            pending += [source for source in sources if source is not None]
    return [node_id for node_id in graph if node_id in seen]


def _missing_classes(graph: Graph, object_info: ObjectInfo) -> list[Objection]:
    """One line for all, so that none is cut off."""
    missing = dict.fromkeys(node["class_type"] for node in graph.values() if node["class_type"] not in object_info)
    if not missing:
        return []
    named = [f"{name}{_perhaps(close_to(name, object_info, limit=2))}" for name in missing]
    classes = "class" if len(missing) == 1 else "classes"
    return [Objection(f"the server lacks the node {classes} {', '.join(named)}")]


def _perhaps(close: list[str]) -> str:
    return f" (it has {' and '.join(close)})" if close else ""


def _specs(graph: Graph, executed: list[str], object_info: ObjectInfo) -> Iterator[tuple[InputRef, InputSpec]]:
    for node_id in executed:
        for name, spec in object_info.specs(graph[node_id]["class_type"]).items():
            yield InputRef(node_id, name), spec


def _respelled(graph: Graph, executed: list[str], object_info: ObjectInfo) -> Graph:
    """The graph with each combo value as the server writes it, where the server has it."""
    spelled: dict[InputRef, Any] = {}
    for spot, spec in _specs(graph, executed, object_info):
        if spec.kind == "COMBO" and _is_literal(value := value_at(graph, spot)):
            option = spec.spelled(value)
            spelled |= {spot: option} if option != value else {}
    return replaced(graph, spelled)


def _is_literal(value: object) -> bool:
    """Lists are links or several choices at once, objects wrap a value: those are the server's to judge."""
    return value is None or isinstance(value, str | int | float)


def _bad_inputs(graph: Graph, executed: list[str], object_info: ObjectInfo) -> Iterator[Objection]:
    for spot, spec in _specs(graph, executed, object_info):
        value = value_at(graph, spot)
        where = f"node {spot.node} {graph[spot.node]['class_type']}.{spot.input}"
        given = _is_given(graph, spot)
        if spec.required and not given:
            yield Objection(f"{where} is missing: {spec.wants(None)}", spot)
        if given and _is_literal(value) and not _is_legal(spec, value):
            yield Objection(f"{where} = {value!r}: {spec.wants(value)}{_way_out(graph, spot, spec, value)}", spot)


def _is_given(graph: Graph, spot: InputRef) -> bool:
    """Inputs that grow are declared as `images` and given as `images.image0`."""
    return any(name == spot.input or name.startswith(f"{spot.input}.") for name in graph[spot.node]["inputs"])


def _is_legal(spec: InputSpec, value: Any) -> bool:
    """As lenient as a server, which takes the text `"20"` and the fraction 20.5 for an INT."""
    try:
        match spec.kind:
            case "COMBO":
                spec.choose(value)
            case "INT":
                return spec.admits(int(value))
            case "FLOAT":
                return spec.admits(float(value))
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _way_out(graph: Graph, spot: InputRef, spec: InputSpec, value: Any) -> str:
    if spec.kind != "COMBO" or not spec.options:
        return ""
    class_type = graph[spot.node]["class_type"]
    alone = sum(node["class_type"] == class_type for node in graph.values()) == 1
    best = [*close_to(str(value), spec.options), spec.options[0]][0]
    return f'; choose with --comfyui-input "{class_type if alone else spot.node}.{spot.input}={best}"'


def _message(name: str, server: str, problems: list[str]) -> str:
    shown = problems[:SHOWN]
    hidden = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    return "\n  ".join([f"{server} cannot run {name}:", *shown, *hidden])
