"""What makes a test a load test: the mark `load_scenario`, or a fixture that runs loads."""

from __future__ import annotations

from collections.abc import Set

import pytest

__all__ = ["FIXTURES", "MARK", "has_loads", "own_marks", "requests_any"]

MARK = "load_scenario"
# A test with one of these has figures to report.
_MEASURING = frozenset({"load", "run_load", "run_ab", "find_capacity", "gpu"})
FIXTURES = _MEASURING | {"comfyui", "comfyui_process"}


def has_loads(item: pytest.Item) -> bool:
    return requests_any(item, _MEASURING)


def requests_any(item: pytest.Item, fixtures: Set[str]) -> bool:
    """Return whether an item requests one of these fixtures, and no other one of that name."""
    names = fixtures & set(getattr(item, "fixturenames", ()))
    return any(_is_ours(item, name) for name in names)


def _is_ours(item: pytest.Item, name: str) -> bool:
    if name in getattr(getattr(item, "callspec", None), "params", ()):
        return False
    found = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {}).get(name, ())
    for definition in reversed(found):
        if str(getattr(definition.func, "__module__", "")).startswith("pytest_comfyload."):
            return True
        # One that overrides ours may request it.
        if name not in definition.argnames:
            return False
    return not found


def own_marks(obj: object) -> list[pytest.Mark]:
    """Return the marks `load_scenario` of a module, class or function itself."""
    obj = obj.__func__ if isinstance(obj, staticmethod | classmethod) else obj
    try:
        # vars(): a class inherits its base's marks, which were checked with the base.
        marks = vars(obj).get("pytestmark", [])
    except Exception:  # no __dict__, or a proxy that a test module has imported and that is bound to nothing yet
        return []
    marks = marks if isinstance(marks, list) else [marks]
    plain = [mark.mark if isinstance(mark, pytest.MarkDecorator) else mark for mark in marks]
    return [mark for mark in plain if isinstance(mark, pytest.Mark) and mark.name == MARK]
