"""Contradictions between a workflow and /object_info, to explain why a server refuses a prompt.

The server decides. A class does not declare all that a server accepts: nodes can validate inputs themselves, and may
list files only later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_comfyload.errors import WorkflowNotServable, close_to
from pytest_comfyload.workflow.graph import InputRef, NodeGraph, replaced
from pytest_comfyload.workflow.input_values import ChoiceInput, DistributionInput
from pytest_comfyload.workflow.object_info import InputSpec
from pytest_comfyload.workflow.workflow import Workflow

__all__ = ["Objection", "doubtful", "not_servable", "objections", "paid_nodes", "refuse_paid", "respelled"]

SHOWN = 7
# Names of node classes are often similar: below this ratio, a name is not a misspelling of another.
_MISSPELLED = 0.85


@dataclass(frozen=True, slots=True)
class Objection:
    """A contradiction between a graph and /object_info; `spot` is None if it concerns no single input."""

    sentence: str
    spot: InputRef | None = None


def objections(nodes: NodeGraph) -> list[Objection]:
    """Find what the server appears to lack or refuse, according to its declarations.

    As on the server, inputs are checked only in nodes that lead to an output, while every class must exist.
    """
    executed = _executed(nodes)
    none = [] if executed else [Objection("none of its nodes is an output, such as SaveImage or PreviewImage")]
    return [*_missing_classes(nodes), *_bad_inputs(nodes, executed), *none]


def doubtful(nodes: NodeGraph, setting: ChoiceInput | DistributionInput) -> Iterator[Mapping[InputRef, Any]]:
    """Yield the options of `setting` that may contradict the server's declarations of their inputs."""
    if not isinstance(setting, ChoiceInput):
        return
    specs = {spot: nodes.spec(spot) or InputSpec("ANY") for spot in setting.takes}
    if all(spec.surely_has(setting.values) for spec in specs.values()):
        return
    for option in setting.options:
        if any(not _is_literal(value) or not _is_legal(specs[spot], value) for spot, value in option.items()):
            yield option


def not_servable(
    name: str, server: str, found: Sequence[Objection], faults: Iterable[tuple[str, str, str]], said: str
) -> WorkflowNotServable:
    """Return the error for a workflow that the server has refused, with the nearest legal values where known.

    Args:
        name: The workflow's name.
        server: The server's URL.
        found: The contradictions between the workflow and /object_info.
        faults: The faults that the server reported: node, input, and message.
        said: The server's message about the whole prompt.
    """
    known = {each.spot: each.sentence for each in found}
    lines = [known.get(InputRef(node, name), words) for node, name, words in faults]
    lines = lines or [each.sentence for each in found if each.spot is None] or [said]
    return WorkflowNotServable(_message(name, server, list(dict.fromkeys(lines))))


def respelled(workflow: Workflow) -> Workflow:
    """Return the workflow with file names spelled as on the server (`a\\b` or `a/b`), if the server has them."""
    nodes = workflow.nodes
    spelled = {
        spot: option
        for spot, spec in _specs(nodes, _executed(nodes))
        if spec.kind == "COMBO" and _is_literal(value := nodes.value(spot)) and (option := spec.spelled(value)) != value
    }
    return replace(workflow, graph=replaced(workflow.graph, spelled))


def refuse_paid(workflow: Workflow, server: str) -> None:
    """Raise WorkflowNotServable for a workflow with nodes that cost money."""
    paid = [
        f"node {each} {workflow.nodes.class_of(each)} costs money at every prompt: allow_api_nodes=True permits it"
        for each in paid_nodes(workflow.nodes)
    ]
    if paid:
        raise WorkflowNotServable(_message(workflow.name, server, paid))


def paid_nodes(nodes: NodeGraph) -> list[str]:
    """Return the nodes that lead to an output and cost money for every prompt."""
    return [each for each in _executed(nodes) if nodes.object_info.entry(nodes.class_of(each)).get("api_node")]


def _executed(nodes: NodeGraph) -> list[str]:
    """Return the nodes that lead to an output; a node of an unknown class counts as an output."""
    info = nodes.object_info
    classes = {node_id: nodes.class_of(node_id) for node_id in nodes}
    executed = nodes.upstream(
        node_id
        for node_id, class_type in classes.items()
        if class_type not in info or info.entry(class_type).get("output_node")
    )
    return [node_id for node_id in nodes if node_id in executed]


def _missing_classes(nodes: NodeGraph) -> list[Objection]:
    """Return one objection for all missing classes, so that none is cut off."""
    missing = dict.fromkeys(name for name in map(nodes.class_of, nodes) if name not in nodes.object_info)
    if not missing:
        return []
    named = [f"{name}{_perhaps(close_to(name, nodes.object_info, limit=1, cutoff=_MISSPELLED))}" for name in missing]
    classes = "class" if len(missing) == 1 else "classes"
    return [
        Objection(
            f"the server lacks the node {classes} {', '.join(named)}; install the custom nodes that have them, and "
            "restart the server"
        )
    ]


def _perhaps(close: list[str]) -> str:
    return f" (did you mean {close[0]}?)" if close else ""


def _specs(nodes: NodeGraph, executed: list[str]) -> Iterator[tuple[InputRef, InputSpec]]:
    for node_id in executed:
        for name, spec in nodes.object_info.specs(nodes.class_of(node_id)).items():
            yield InputRef(node_id, name), spec


def _is_literal(value: object) -> bool:
    """Return whether a value can be checked here; only the server can check links, lists of choices and objects."""
    return value is None or isinstance(value, str | int | float)


def _bad_inputs(nodes: NodeGraph, executed: list[str]) -> Iterator[Objection]:
    for spot, spec in _specs(nodes, executed):
        value = nodes.value(spot)
        where = f"node {spot.node} {nodes.class_of(spot.node)}.{spot.input}"
        given = _is_given(nodes, spot)
        if spec.required and not given:
            yield Objection(f"{where} is missing: {spec.wants(None)}", spot)
        if given and _is_literal(value) and not _is_legal(spec, value):
            yield Objection(f"{where} = {value!r}: {spec.wants(value)}{_way_out(nodes, spot, spec, value)}", spot)


def _is_given(nodes: NodeGraph, spot: InputRef) -> bool:
    """Return whether an input is given; growing inputs are declared as `images` and given as `images.image0`."""
    return any(name == spot.input or name.startswith(f"{spot.input}.") for name in nodes.inputs_of(spot.node))


def _is_legal(spec: InputSpec, value: Any) -> bool:
    """Check as leniently as a server, which accepts the text `"20"` and the fraction 20.5 for an INT."""
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


def _way_out(nodes: NodeGraph, spot: InputRef, spec: InputSpec, value: Any) -> str:
    if spec.kind != "COMBO" or not spec.options:
        return ""
    class_type = nodes.class_of(spot.node)
    node = class_type if len(nodes.of_classes([class_type])) == 1 else spot.node
    best = [*close_to(str(value), spec.options), spec.options[0]][0]
    return f'; choose with --comfyui-input "{node}.{spot.input}={best}"'


def _message(name: str, server: str, problems: list[str]) -> str:
    shown = problems[:SHOWN]
    hidden = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    return "\n  ".join([f"{server} cannot run {name}:", *shown, *hidden])
