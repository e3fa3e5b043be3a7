"""Repeated runs of a test: attempts of pytest-rerunfailures and similar plugins, and numbered copies of pytest-repeat.

Each attempt and each copy has a load of its own; their runs belong to one series.
"""

from __future__ import annotations

import re

import pytest
from _pytest.nodes import Node

from pytest_comfyload.history.location import project_of

__all__ = ["attempt_of", "begin_attempt", "joined", "parameters_of", "repetition_of", "test_id"]

_ATTEMPT = pytest.StashKey[int]()
# pytest-repeat parametrises a test with its number, from 0; the id is `1-3` for the first of three.
_STEP = "__pytest_repeat_step_number"


def begin_attempt(item: pytest.Item) -> None:
    item.stash[_ATTEMPT] = attempt_of(item) + 1


def attempt_of(item: pytest.Item) -> int:
    """Return how many times the item has been set up."""
    return item.stash.get(_ATTEMPT, 0)


def repetition_of(item: pytest.Item) -> str:
    """Return `repeat 2`, `attempt 3` or both; empty for the first run."""
    step, attempt = _step_of(item), attempt_of(item)
    return joined(f"repeat {step + 1}" if step else "", f"attempt {attempt}" if attempt > 1 else "")


def parameters_of(item: pytest.Item) -> str:
    """Return the id of the item's parameters, without pytest-repeat's."""
    callspec = getattr(item, "callspec", None)
    return "" if callspec is None else _without_step(item, str(callspec.id))


def joined(*repetitions: str) -> str:
    return ", ".join(filter(None, repetitions))


def _unrepeated(node: Node, name: str) -> str:
    """Return a name of a test, such as its node id, without pytest-repeat's part."""
    path, bracket, parameters = name.partition("[")
    kept = _without_step(node, parameters.removesuffix("]"))
    return f"{path}[{kept}]" if bracket and kept else path


def test_id(node: Node) -> str:
    """Return the node's id with its path from the project root, regardless of where pytest was started."""
    folder = node.path if node.path.is_dir() else node.path.parent
    project = project_of(folder, node.config.invocation_params.dir)
    _, colons, name = _unrepeated(node, node.nodeid).partition("::")
    return f"{node.path.relative_to(project).as_posix()}{colons}{name}"


# Otherwise pytest would collect it in a test module that imports it.
test_id.__test__ = False  # type: ignore[attr-defined]


def _without_step(node: Node, parameters: str) -> str:
    step = _step_of(node)
    return parameters if step is None else re.sub(rf"(^|-){step + 1}-\d+$", "", parameters)


def _step_of(node: Node) -> int | None:
    callspec = getattr(node, "callspec", None)
    step = None if callspec is None else callspec.params.get(_STEP)
    return step if isinstance(step, int) else None
