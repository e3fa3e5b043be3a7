"""Validation of prompts against /object_info, with the rules and error messages of ComfyUI's POST /prompt.

Without it, an invalid prompt would be refused only when it reaches a worker. The custom validation code of nodes and
the contents of input folders can be checked only by a worker.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_comfyload.protocol.json_values import as_dict, as_list, finite

__all__ = ["PromptJudgement", "judge", "refusal"]

_LONGEST_LISTED = 20
_CONVERTERS: Mapping[str, type] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}
_CONVERSION_ERRORS = (TypeError, ValueError, OverflowError)

Fault = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PromptJudgement:
    """Result of a validation. `outputs` are the output nodes that can be executed; `error` is None if there are any."""

    outputs: tuple[str, ...] = ()
    error: Mapping[str, Any] | None = None
    node_errors: Mapping[str, Any] = field(default_factory=dict)


def refusal(kind: str, message: str, details: str = "", **extra: Any) -> dict[str, Any]:
    """Return the `error` of a 400 response in ComfyUI's format."""
    return {"type": kind, "message": message, "details": details, "extra_info": extra}


def judge(graph: object, classes: Mapping[str, Any], targets: object = None) -> PromptJudgement:
    """Validate a prompt.

    Args:
        graph: The `prompt` of a request, of any shape.
        classes: The content of /object_info.
        targets: The `partial_execution_targets` of a request, of any shape.
    """
    error = _misshapen(graph) or _missing_class(as_dict(graph), classes)
    if error is not None:
        return PromptJudgement(error=error)
    nodes = as_dict(graph)
    chosen = None if targets is None else as_list(targets)
    outputs = [
        node_id
        for node_id, node in nodes.items()
        if classes[node["class_type"]].get("output_node") and (chosen is None or node_id in chosen)
    ]
    if not outputs:
        return PromptJudgement(error=refusal("prompt_no_outputs", "Prompt has no outputs"))
    return _judge_outputs(outputs, _Walk(nodes, classes))


def _misshapen(graph: object) -> Fault | None:
    if not isinstance(graph, dict):
        return refusal("invalid_prompt", "The prompt is not an object of nodes by their ids")
    for node_id, node in graph.items():
        if not isinstance(node, dict) or not isinstance(node.get("inputs", {}), dict):
            return refusal("invalid_prompt", "A node is not an object with inputs", f"Node ID '#{node_id}'")
    return None


def _missing_class(nodes: Mapping[str, Any], classes: Mapping[str, Any]) -> Fault | None:
    for node_id, node in nodes.items():
        class_type = node.get("class_type")
        if isinstance(class_type, str) and class_type in classes:
            continue
        title = as_dict(node.get("_meta")).get("title", class_type)
        if class_type is None:
            name = title or f"ID #{node_id}"
            message = f"Node '{name}' has no class_type. The workflow may be corrupted or a custom node is missing."
        else:
            message = f"Node '{title}' not found. The custom node may not be installed."
        known = {"node_id": node_id, "class_type": class_type, "node_title": title}
        return refusal("missing_node_type", message, f"Node ID '#{node_id}'", **known)
    return None


def _judge_outputs(outputs: Sequence[str], walk: _Walk) -> PromptJudgement:
    good: list[str] = []
    reasons: list[Fault] = []
    node_errors: dict[str, Any] = {}
    for output in outputs:
        if walk.passes(output):
            good.append(output)
            continue
        reasons += walk.faults.get(output, [])
        for node_id, faults in walk.faults.items():
            told = {"errors": faults, "dependent_outputs": [], "class_type": walk.class_of(node_id)}
            node_errors.setdefault(node_id, told)["dependent_outputs"].append(output)
    if good:
        return PromptJudgement(tuple(good), None, node_errors)
    details = "\n".join(f"{reason['message']}: {reason['details']}" for reason in reasons)
    error = refusal("prompt_outputs_failed_validation", "Prompt outputs failed validation", details)
    return PromptJudgement((), error, node_errors)


class _Walk:
    """Validation of nodes, from outputs up their links, each node once. `faults` are those of each node that has any.

    `_node` recurses by means of generators, so that even the deepest graph does not exhaust the stack.
    """

    def __init__(self, nodes: Mapping[str, Any], classes: Mapping[str, Any]) -> None:
        self.faults: dict[str, list[Fault]] = {}
        self._nodes = nodes
        self._classes = classes
        self._passed: dict[str, bool] = {}

    def class_of(self, node_id: str) -> str:
        return str(self._nodes[node_id]["class_type"])

    def passes(self, output: str) -> bool:
        try:
            return self._walk(output)
        except (LookupError, TypeError) as error:
            known = {"exception_type": type(error).__name__, "traceback": []}
            found = {"type": "exception_during_validation", "message": "Exception when validating node"}
            self.faults[output] = [found | {"details": str(error), "extra_info": known}]
            return False

    def _walk(self, output: str) -> bool:
        stack = [self._node(output)]
        answer: bool | None = None
        raised: Exception | None = None
        while True:
            try:
                upstream = stack[-1].send(answer) if raised is None else stack[-1].throw(raised)
            except StopIteration as done:
                stack.pop()
                answer, raised = bool(done.value), None
            except (LookupError, TypeError) as error:
                stack.pop()
                raised = error
            else:
                stack.append(self._node(upstream))
                answer, raised = None, None
            if not stack:
                if raised is not None:
                    raise raised
                return bool(answer)

    def _node(self, node_id: str) -> Generator[str, bool | None, bool]:
        if node_id in self._passed:
            return self._passed[node_id]
        self._passed[node_id] = False  # a node reached again while it is being validated is in a cycle
        given = self._nodes[node_id]["inputs"]
        faults: list[Fault] = []
        whole = True
        for name, declaration, is_required in _declared(self._classes[self.class_of(node_id)]):
            if name not in given:
                missing = _fault("required_input_missing", "Required input is missing", name, name)
                faults += [missing] if is_required else []
            elif not isinstance(given[name], list):
                faults += _literal_faults(given[name], name, declaration)
            elif found := self._link_faults(given[name], name, declaration):
                faults += found
            else:
                whole = (yield from self._upstream(given[name], name, declaration)) and whole
        if faults:
            self.faults[node_id] = faults
        self._passed[node_id] = whole and not faults
        return self._passed[node_id]

    def _link_faults(self, link: list[Any], name: str, declaration: list[Any]) -> list[Fault]:
        if len(link) != 2:
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            return [_fault("bad_linked_input", message, name, name, input_config=declaration, received_value=link)]
        source, slot = link
        received = tuple(self._classes[self.class_of(source)]["output"])[slot]
        if _fits(received, declaration[0]):
            return []
        details = f"{name}, received_type({received}) mismatch input_type({declaration[0]})"
        told = {"input_config": declaration, "received_type": received, "linked_node": link}
        return [_fault("return_type_mismatch", "Return type mismatch between linked nodes", details, name, **told)]

    def _upstream(self, link: list[Any], name: str, declaration: list[Any]) -> Generator[str, bool | None, bool]:
        source = link[0]
        try:
            return bool((yield source))
        except (LookupError, TypeError) as error:
            told = {
                "input_config": declaration,
                "exception_message": str(error),
                "exception_type": type(error).__name__,
                "traceback": [],
                "linked_node": link,
            }
            message = "Exception when validating inner node"
            self.faults[source] = [_fault("exception_during_inner_validation", message, str(error), name, **told)]
            return False


def _declared(info: Mapping[str, Any]) -> list[tuple[str, list[Any], bool]]:
    """Return the name and declaration of each input, and whether it is required; unreadable ones are left out."""
    inputs = as_dict(info.get("input"))
    return [
        (name, declaration, section == "required")
        for section in ("required", "optional")
        for name, declaration in as_dict(inputs.get(section)).items()
        if isinstance(declaration, list) and declaration
    ]


def _fits(received: object, wanted: object) -> bool:
    """Return whether an output type may be linked to an input type; `*` is any type, `IMAGE,MASK` one of several."""
    if received == wanted or not isinstance(received, str) or not isinstance(wanted, str):
        return received == wanted
    given, legal = ({name.strip() for name in kind.split(",")} for kind in (received, wanted))
    return "*" in given | legal or bool(given & legal)


def _literal_faults(value: Any, name: str, declaration: list[Any]) -> list[Fault]:
    kind = declaration[0]
    settings = as_dict(declaration[1] if len(declaration) > 1 else None)
    if isinstance(value, dict) and "__value__" in value:
        value = value["__value__"]
    try:
        value = _CONVERTERS[kind](value) if isinstance(kind, str) and kind in _CONVERTERS else value
    except _CONVERSION_ERRORS as error:
        told = {"input_config": declaration, "received_value": value, "exception_message": str(error)}
        message = f"Failed to convert an input value to a {kind} value"
        return [_fault("invalid_input_type", message, f"{name}, {value}, {error}", name, **told)]
    if any(str(key).endswith("_upload") for key in settings):
        return []  # users' files, which no list of choices contains
    return [*_range_faults(value, name, declaration, settings), *_choice_faults(value, name, declaration, settings)]


def _range_faults(value: Any, name: str, declaration: list[Any], settings: Mapping[str, Any]) -> list[Fault]:
    number, low, high = (finite(each) for each in (value, settings.get("min"), settings.get("max")))
    told = {"input_config": declaration, "received_value": value}
    if number is not None and low is not None and number < low:
        message = f"Value {value} smaller than min of {settings['min']}"
        return [_fault("value_smaller_than_min", message, name, name, **told)]
    if number is not None and high is not None and number > high:
        message = f"Value {value} bigger than max of {settings['max']}"
        return [_fault("value_bigger_than_max", message, name, name, **told)]
    return []


def _choice_faults(value: Any, name: str, declaration: list[Any], settings: Mapping[str, Any]) -> list[Fault]:
    kind = declaration[0]
    choices = kind if isinstance(kind, list) else settings.get("options") if kind == "COMBO" else None
    if not isinstance(choices, list) or value in choices:
        return []
    is_short = len(choices) <= _LONGEST_LISTED
    listed = str(choices) if is_short else f"(list of length {len(choices)})"
    told = {"input_config": declaration if is_short else None, "received_value": value}
    return [_fault("value_not_in_list", "Value not in list", f"{name}: '{value}' not in {listed}", name, **told)]


def _fault(kind: str, message: str, details: str, name: str, **told: Any) -> Fault:
    return {"type": kind, "message": message, "details": details, "extra_info": {"input_name": name, **told}}
