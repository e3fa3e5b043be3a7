"""A stub of torchvision, which conflicts with a CPU build of torch: any import or attribute of it exists.

ComfyUI imports torchvision for nodes that the tests do not run. Every submodule, attribute and call is a `_Whatever`.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _Whatever(ModuleType):
    """A module, a class and a function at the same time."""

    def __getattr__(self, name: str) -> Any:
        # Python's own protocols (iteration, copying, inspection) must find that they are not supported.
        if name.startswith("__"):
            raise AttributeError(name)
        return _Whatever(f"{self.__name__}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> _Whatever:
        return self


class _Submodules:
    """Finds and loads every submodule of `torchvision`, at any depth."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.startswith(f"{__name__}.") else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Whatever(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the module is complete once created."""


def __getattr__(name: str) -> Any:
    return getattr(_Whatever(__name__), name)


__version__ = "0.0"
sys.meta_path.append(_Submodules())
