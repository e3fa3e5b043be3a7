"""The node classes that the simulator knows, described exactly as in /object_info."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any, Protocol

from pytest_comfyload.simulator.inference import inferred_class, merged
from pytest_comfyload.simulator.settings import SimulatorSettings, read_object_info

__all__ = ["UPLOAD_INPUTS", "Input", "InputFiles", "Library", "Prompt", "is_prompt"]

Prompt = dict[str, Any]
"""A workflow in API format: node id → {"class_type": …, "inputs": {…}}."""

UPLOAD_INPUTS = {"LoadImage": "image", "LoadImageMask": "image"}
"""Classes that read an uploaded picture, with the input that names it; they validate that input themselves."""
_SEED = {"default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF}
_MODERN = {"is_input_list": False, "has_intermediate_output": False}
_PASSED_ON = {"output": ["IMAGE"], "output_is_list": [False], "output_name": ["images"]}
_MODERN_SAVERS = {"SaveImage": _PASSED_ON, "PreviewImage": _PASSED_ON}
"""On newer servers, these nodes also return the pictures that they save."""
_PROBES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "ProbeSleep": (
        {
            "seconds": ["FLOAT", {"default": 0.2, "min": 0.0, "max": 3600.0, "step": 0.01}],
            "seed": ["INT", _SEED],
            "width": ["INT", {"default": 64, "min": 8, "max": 4096}],
        },
        ["IMAGE"],
    ),
    "ProbeFail": ({"image": ["IMAGE"]}, ["IMAGE"]),
    "ProbeOOM": ({"image": ["IMAGE"]}, ["IMAGE"]),
}


@dataclass(frozen=True, slots=True)
class Input:
    """One declared input: its name, its raw declaration, and whether it is required."""

    name: str
    declaration: list[Any]
    required: bool

    @property
    def type(self) -> Any:
        """A name such as "INT" or "MODEL", or a list of choices."""
        return self.declaration[0]

    @property
    def options(self) -> dict[str, Any]:
        return self.declaration[1] if len(self.declaration) > 1 and isinstance(self.declaration[1], dict) else {}

    @property
    def choices(self) -> list[Any] | None:
        """The legal values, or None when the input is not a choice."""
        if isinstance(self.type, list):
            return self.type
        options = self.options.get("options") if self.type == "COMBO" else None
        return list(options) if isinstance(options, list) else None


class InputFiles(Protocol):
    """The uploaded files that loaders choose from."""

    def input_names(self) -> list[str]:
        """Return the names that a choice lists: those directly in the input folder."""
        ...

    def has_input(self, name: str) -> bool:
        """Return whether a loader would find `name`, which may have a subfolder or an annotation such as `[temp]`."""
        ...

    def draw_input(self, name: str) -> None:
        """Create a picture of this name in the input folder."""
        ...


class Library:
    """The node classes of a server; lists of files are looked up on each access.

    These are the simulator's own classes, those in the settings' object info, and those that `learn` has inferred from
    workflows.
    """

    def __init__(self, settings: SimulatorSettings, uploads: InputFiles) -> None:
        self._settings = settings
        self.uploads = uploads
        self._files: dict[str, set[str]] = {}
        """Model files that workflows have named, by folder."""
        self._inferred: set[str] = set()
        text = resources.files(__package__).joinpath("nodes.json").read_text(encoding="utf-8")
        self._classes: dict[str, Any] = json.loads(text)
        if settings.version.modern:
            for name, info in self._classes.items():
                self._classes[name] = info | _MODERN | _MODERN_SAVERS.get(name, {})
        described = read_object_info(settings.object_info)
        self._classes |= {name: info for name, info in described.items() if name not in UPLOAD_INPUTS}
        if settings.probe_nodes:
            self._classes |= {name: _probe_info(name, *spec) for name, spec in _PROBES.items()}

    def __contains__(self, class_type: object) -> bool:
        return class_type in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def info(self, class_type: str) -> Any:
        """Return the /object_info entry of a class, with the current files in its choices."""
        return self._resolve(self._classes[class_type])

    def inputs(self, class_type: str) -> list[Input]:
        """Return the declared inputs, required ones first, in the order of their declaration."""
        sections = self._resolve(self._classes[class_type]["input"])
        return [
            Input(name, declaration, section == "required")
            for section in ("required", "optional")
            for name, declaration in (sections.get(section) or {}).items()
        ]

    def outputs(self, class_type: str) -> tuple[str, ...]:
        return tuple(self._classes[class_type]["output"])

    def is_output(self, class_type: str) -> bool:
        return bool(self._classes[class_type].get("output_node"))

    def files(self, folder: str) -> list[str]:
        """Return the files that a choice offers: the models of a folder, or the uploaded pictures for `input`."""
        if folder == "input":
            return self.uploads.input_names()
        return self.models(folder) + (["pixel_space"] if folder == "vae" else [])

    def models(self, folder: str) -> list[str]:
        """Return the model files of a folder, sorted as ComfyUI sorts them."""
        return sorted({*self._settings.models_in(folder), *self._files.get(folder, ())})

    def learn(self, prompt: Prompt) -> None:
        """Add the classes, model files, other choices and pictures that a workflow names.

        A prompt of the wrong shape is ignored; rejecting it is up to the validation.
        """
        if not is_prompt(prompt):
            return
        for name in dict.fromkeys(node["class_type"] for node in prompt.values()):
            if name not in self._classes or name in self._inferred:
                self._infer(name, prompt)
        for node in prompt.values():
            self._learn_choices(node)

    def _infer(self, name: str, prompt: Prompt) -> None:
        info = inferred_class(name, prompt, self._input_type, self._output_type)
        known = self._classes.get(name)
        self._inferred.add(name)
        self._classes[name] = merged(known, info) if known else info

    def _input_type(self, class_type: str, name: Any) -> str | None:
        """Return the declared type; None if the class is unknown or inferred, or if the input takes any type."""
        if class_type not in self._classes or class_type in self._inferred:
            return None
        declared = next((each.type for each in self.inputs(class_type) if each.name == name), None)
        return declared if isinstance(declared, str) and declared != "*" else None

    def _output_type(self, class_type: str, slot: Any) -> str | None:
        if class_type not in self._classes or not 0 <= slot < len(self.outputs(class_type)):
            return None
        kind = self.outputs(class_type)[int(slot)]
        return kind if isinstance(kind, str) and kind != "*" else None

    def _learn_choices(self, node: dict[str, Any]) -> None:
        class_type = node["class_type"]
        for section in ("required", "optional"):
            for name, declaration in (self._classes[class_type]["input"].get(section) or {}).items():
                value = node["inputs"].get(name)
                if isinstance(value, str) and UPLOAD_INPUTS.get(class_type) == name:
                    self._learn_picture(value)
                elif isinstance(value, str):
                    self._learn_choice(declaration, value)

    def _learn_picture(self, name: str) -> None:
        """Create a picture that does not exist, except in subfolders: clients upload those themselves."""
        if "/" not in name and not self.uploads.has_input(name):
            self.uploads.draw_input(name)

    def _learn_choice(self, declaration: list[Any], value: str) -> None:
        kind = declaration[0]
        if isinstance(kind, dict) and value not in self.files(kind["folder"]):
            self._files.setdefault(kind["folder"], set()).add(value)
        choices = declaration[1].get("options") if kind == "COMBO" and len(declaration) > 1 else kind
        if isinstance(choices, dict) and value not in self.files(choices["folder"]):
            self._files.setdefault(choices["folder"], set()).add(value)
        if isinstance(choices, list) and value not in choices:
            choices.append(value)

    def _resolve(self, value: Any) -> Any:
        if isinstance(value, dict):
            if value.keys() == {"folder"}:
                return self.files(value["folder"])
            return {key: self._resolve(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._resolve(item) for item in value]
        return value


def is_prompt(prompt: object) -> bool:
    """Return whether a value has the shape of a workflow in API format."""
    return isinstance(prompt, dict) and all(
        isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)
        for node in prompt.values()
    )


def _probe_info(name: str, inputs: dict[str, Any], outputs: list[str]) -> dict[str, Any]:
    return {
        "input": {"required": inputs},
        "input_order": {"required": list(inputs)},
        "output": outputs,
        "output_is_list": [False] * len(outputs),
        "output_name": outputs,
        "name": name,
        "display_name": name,
        "description": "",
        "python_module": "custom_nodes.probe",
        "category": "probe",
        "output_node": False,
    }
