"""Validation of prompts as in ComfyUI's POST /prompt: same error types, messages and details, same valid outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_comfyload.simulator.library import UPLOAD_INPUTS, Input, Library, Prompt

__all__ = ["ValidationResult", "validate"]

_LONGEST_LISTED = 20
_CONVERTERS: dict[str, type] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}

NodeError = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """Result of a validation; `outputs` are the output nodes to execute, `error` is None if the prompt is accepted."""

    outputs: list[str] = field(default_factory=list)
    error: dict[str, Any] | None = None
    node_errors: dict[str, Any] = field(default_factory=dict)


def validate(
    prompt: Prompt, library: Library, targets: Sequence[str] | None = None, *, modern: bool = True
) -> ValidationResult:
    """Validate a prompt, converting its literals in place ("3" → 3) as the real server does; `modern`: as of 0.33.

    A prompt of the wrong shape may raise any exception; the real server answers 500 to it.
    """
    refused = _missing_node_type(prompt, library) if modern else _unknown_class(prompt, library)
    if refused:
        return ValidationResult(error=refused)
    outputs = [
        node_id
        for node_id, node in (prompt.items() if prompt else ())
        if library.is_output(node["class_type"]) and (targets is None or node_id in targets)
    ]
    if not modern:
        outputs.sort()  # the real server has them in a set, in arbitrary order; this is the order that was recorded
    if not outputs:
        return ValidationResult(error=_error("prompt_no_outputs", "Prompt has no outputs", ""))
    return _judge(outputs, _Checker(prompt, library))


def _unknown_class(prompt: Prompt, library: Library) -> dict[str, Any] | None:
    for node_id in prompt:
        node = prompt[node_id]
        if "class_type" not in node:
            message = "Cannot execute because a node is missing the class_type property."
        elif node["class_type"] not in library:
            message = f"Cannot execute because node {node['class_type']} does not exist."
        else:
            continue
        return _error("invalid_prompt", message, f"Node ID '#{node_id}'")
    return None


def _missing_node_type(prompt: Prompt, library: Library) -> dict[str, Any] | None:
    for node_id, node in prompt.items():
        class_type = node.get("class_type")
        if class_type in library:
            continue
        title = node.get("_meta", {}).get("title", class_type)
        if class_type is None:
            name = title or f"ID #{node_id}"
            message = f"Node '{name}' has no class_type. The workflow may be corrupted or a custom node is missing."
        else:
            message = f"Node '{title}' not found. The custom node may not be installed."
        info = {"node_id": node_id, "class_type": class_type, "node_title": title}
        return _error("missing_node_type", message, f"Node ID '#{node_id}'") | {"extra_info": info}
    return None


def _judge(outputs: list[str], checker: _Checker) -> ValidationResult:
    good: list[str] = []
    reasons: list[NodeError] = []
    node_errors: dict[str, Any] = {}
    for output in outputs:
        if checker.passes_output(output):
            good.append(output)
            continue
        reasons += checker.errors.get(output, [])
        for node_id, errors in checker.errors.items():
            entry = {"errors": errors, "dependent_outputs": [], "class_type": checker.class_of(node_id)}
            node_errors.setdefault(node_id, entry)["dependent_outputs"].append(output)
    if good:
        return ValidationResult(good, None, node_errors)
    details = "\n".join(f"{reason['message']}: {reason['details']}" for reason in reasons)
    message = "Prompt outputs failed validation"
    return ValidationResult([], _error("prompt_outputs_failed_validation", message, details), node_errors)


class _Checker:
    """Checks outputs and all nodes upstream of them, each node once; `errors` has the errors by node."""

    def __init__(self, prompt: Prompt, library: Library) -> None:
        self.errors: dict[str, list[NodeError]] = {}
        self._prompt = prompt
        self._library = library
        self._passed: dict[str, bool] = {}

    def class_of(self, node_id: str) -> str:
        return str(self._prompt[node_id]["class_type"])

    def passes_output(self, output: str) -> bool:
        try:
            return self._passes(output)
        except (LookupError, TypeError) as error:
            info = {"exception_type": type(error).__name__, "traceback": _traceback()}
            found = {"type": "exception_during_validation", "message": "Exception when validating node"}
            self.errors[output] = [found | {"details": str(error), "extra_info": info}]
            return False

    def _passes(self, node_id: str) -> bool:
        if node_id in self._passed:
            return self._passed[node_id]
        self._passed[node_id] = False  # a node that is reached again while it is being checked is in a cycle
        inputs = self._prompt[node_id]["inputs"]
        whole = True
        errors: list[NodeError] = []
        for declared in self._library.inputs(self.class_of(node_id)):
            found, sound = self._input(node_id, inputs, declared)
            errors += found
            whole = whole and sound and not found
        if errors:
            self.errors[node_id] = errors
        self._passed[node_id] = whole
        return whole

    def _input(self, node_id: str, inputs: dict[str, Any], declared: Input) -> tuple[list[NodeError], bool]:
        """Return the errors of one input, and whether the node that it is linked to passes."""
        if declared.name not in inputs:
            missing = _node_error("required_input_missing", "Required input is missing", declared.name, declared, None)
            return ([missing] if declared.required else []), True
        value = inputs[declared.name]
        if isinstance(value, list):
            return self._link(value, declared)
        return self._literal(self.class_of(node_id), inputs, declared), True

    def _link(self, link: list[Any], declared: Input) -> tuple[list[NodeError], bool]:
        if len(link) != 2:
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            config = {"input_config": declared.declaration, "received_value": link}
            return [_node_error("bad_linked_input", message, declared.name, declared, config)], True
        source, slot = link
        received = self._library.outputs(self._prompt[source]["class_type"])[slot]
        if not _fits(received, declared.type):
            config = {"input_config": declared.declaration, "received_type": received, "linked_node": link}
            details = f"{declared.name}, received_type({received}) mismatch input_type({declared.type})"
            message = "Return type mismatch between linked nodes"
            return [_node_error("return_type_mismatch", message, details, declared, config)], True
        return self._upstream(source, declared, link)

    def _upstream(self, source: str, declared: Input, link: list[Any]) -> tuple[list[NodeError], bool]:
        try:
            return [], self._passes(source)
        except (LookupError, TypeError) as error:
            config = {
                "input_config": declared.declaration,
                "exception_message": str(error),
                "exception_type": type(error).__name__,
                "traceback": _traceback(),
                "linked_node": link,
            }
            message = "Exception when validating inner node"
            found = _node_error("exception_during_inner_validation", message, str(error), declared, config)
            self.errors[source] = [found]
            return [], False

    def _literal(self, class_type: str, inputs: dict[str, Any], declared: Input) -> list[NodeError]:
        try:
            value = inputs[declared.name] = _converted(inputs[declared.name], declared)
        except (TypeError, ValueError, OverflowError) as error:
            return [_conversion_error(inputs[declared.name], declared, error)]
        if UPLOAD_INPUTS.get(class_type) == declared.name:
            return self._uploaded(value, declared)
        return [*_range_errors(value, declared), *_choice_errors(value, declared)]

    def _uploaded(self, value: Any, declared: Input) -> list[NodeError]:
        if self._library.uploads.has_input(value):
            return []
        details = f"{declared.name} - Invalid image file: {value}"
        return [_node_error("custom_validation_failed", "Custom validation failed for node", details, declared, None)]


def _fits(received: Any, wanted: Any) -> bool:
    """Return whether an output type may be linked to an input type; `*` is any type, `IMAGE,MASK` one of several."""
    if received == wanted:
        return True
    if not isinstance(received, str) or not isinstance(wanted, str):
        return False
    ours, theirs = ({name.strip() for name in kind.split(",")} for kind in (received, wanted))
    return "*" in ours | theirs or bool(ours & theirs)


def _converted(value: Any, declared: Input) -> Any:
    if isinstance(value, dict) and "__value__" in value:
        value = value["__value__"]
    converter = _CONVERTERS.get(declared.type) if isinstance(declared.type, str) else None
    return converter(value) if converter else value


def _conversion_error(value: Any, declared: Input, error: Exception) -> NodeError:
    config = {"input_config": declared.declaration, "received_value": value, "exception_message": str(error)}
    message = f"Failed to convert an input value to a {declared.type} value"
    return _node_error("invalid_input_type", message, f"{declared.name}, {value}, {error}", declared, config)


def _range_errors(value: Any, declared: Input) -> list[NodeError]:
    config = {"input_config": declared.declaration, "received_value": value}
    low, high = declared.options.get("min"), declared.options.get("max")
    if low is not None and value < low:
        message = f"Value {value} smaller than min of {low}"
        return [_node_error("value_smaller_than_min", message, declared.name, declared, config)]
    if high is not None and value > high:
        message = f"Value {value} bigger than max of {high}"
        return [_node_error("value_bigger_than_max", message, declared.name, declared, config)]
    return []


def _choice_errors(value: Any, declared: Input) -> list[NodeError]:
    choices = declared.choices
    if choices is None or value in choices:
        return []
    short = len(choices) <= _LONGEST_LISTED
    config = {"input_config": declared.declaration if short else None, "received_value": value}
    listed = str(choices) if short else f"(list of length {len(choices)})"
    details = f"{declared.name}: '{value}' not in {listed}"
    return [_node_error("value_not_in_list", "Value not in list", details, declared, config)]


def _node_error(kind: str, message: str, details: str, declared: Input, extra: dict[str, Any] | None) -> NodeError:
    info = {"input_name": declared.name, **(extra or {})}
    return {"type": kind, "message": message, "details": details, "extra_info": info}


def _error(kind: str, message: str, details: str) -> dict[str, Any]:
    return {"type": kind, "message": message, "details": details, "extra_info": {}}


def _traceback() -> list[str]:
    return ['  File "execution.py", line 802, in validate_inputs\n']
