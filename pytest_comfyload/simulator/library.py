"""The node classes that the simulator knows, described exactly as /object_info describes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any, Protocol

from pytest_comfyload.simulator.settings import Settings

__all__ = ["Input", "InputFiles", "Library", "Prompt", "is_link"]

Prompt = dict[str, Any]
"""A workflow in API format: node id → {"class_type": …, "inputs": {…}}."""

_SEED = {"default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF}
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
    """One declared input: its name, its raw declaration, and whether it must be given."""

    name: str
    declaration: list[Any]
    required: bool

    @property
    def type(self) -> Any:
        """ "INT", "MODEL", …, or a list of choices."""
        return self.declaration[0]

    @property
    def options(self) -> dict[str, Any]:
        return self.declaration[1] if len(self.declaration) > 1 else {}

    @property
    def choices(self) -> list[Any] | None:
        """The legal values, or None when the input is not a choice."""
        if isinstance(self.type, list):
            return self.type
        return list(self.options.get("options", [])) if self.type == "COMBO" else None


class InputFiles(Protocol):
    """The uploaded files that loaders choose from."""

    def input_names(self) -> list[str]:
        """The names that a choice lists: those directly in the input folder."""
        ...

    def has_input(self, name: str) -> bool:
        """Whether a loader would find `name`, which may have a subfolder or an annotation such as `[temp]`."""
        ...


class Library:
    """Answers questions about node classes; lists of files are looked up anew each time."""

    def __init__(self, settings: Settings, uploads: InputFiles) -> None:
        self._settings = settings
        self.uploads = uploads
        text = resources.files(__package__).joinpath("nodes.json").read_text(encoding="utf-8")
        self._classes: dict[str, Any] = json.loads(text)
        if settings.probe_nodes:
            self._classes |= {name: _probe_info(name, *spec) for name, spec in _PROBES.items()}

    def __contains__(self, class_type: object) -> bool:
        return class_type in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def info(self, class_type: str) -> Any:
        """The /object_info entry of a class, with today's files in its choices."""
        return self._resolve(self._classes[class_type])

    def inputs(self, class_type: str) -> list[Input]:
        """The declared inputs, required ones first, in declared order."""
        sections = self._resolve(self._classes[class_type]["input"])
        return [
            Input(name, declaration, section == "required")
            for section in ("required", "optional")
            for name, declaration in sections.get(section, {}).items()
        ]

    def outputs(self, class_type: str) -> tuple[str, ...]:
        return tuple(self._classes[class_type]["output"])

    def is_output(self, class_type: str) -> bool:
        return bool(self._classes[class_type]["output_node"])

    def files(self, folder: str) -> list[str]:
        """The files that a choice offers: models by folder, or the uploaded pictures of folder `input`."""
        if folder == "input":
            return self.uploads.input_names()
        return self._settings.models_in(folder) + (["pixel_space"] if folder == "vae" else [])

    def _resolve(self, value: Any) -> Any:
        if isinstance(value, dict):
            if value.keys() == {"folder"}:
                return self.files(value["folder"])
            return {key: self._resolve(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._resolve(item) for item in value]
        return value


def is_link(value: Any) -> bool:
    """Whether an input value is a link [node id, output slot] rather than a literal."""
    return (
        isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int | float)
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
