"""What makes a test a load test: the mark `load_scenario`, or a fixture that runs loads."""

from __future__ import annotations

from collections.abc import Set

import pytest

__all__ = ["FIXTURES", "MARK", "has_loads", "own_marks", "requests_any"]

MARK = "load_scenario"
# Fixtures whose tests have figures to report.
_MEASURING = frozenset({"load", "run_load", "run_ab", "find_capacity", "gpu"})
FIXTURES = _MEASURING | {"comfyui", "comfyui_process"}


def has_loads(item: pytest.Item) -> bool:
    return requests_any(item, _MEASURING)


def requests_any(item: pytest.Item, fixtures: Set[str]) -> bool:
    """Return whether an item requests one of these fixtures, and not another fixture of the same name."""
    names = fixtures & set(getattr(item, "fixturenames", ()))
    return any(_is_ours(item, name) for name in names)


def _is_ours(item: pytest.Item, name: str) -> bool:
    if name in getattr(getattr(item, "callspec", None), "params", ()):
        return False
    found = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {}).get(name, ())
    for definition in reversed(found):
        if str(getattr(definition.func, "__module__", "")).startswith("pytest_comfyload."):
            return True
        # A fixture that overrides ours may request ours.
        if name not in definition.argnames:
            return False
    return not found


def own_marks(obj: object) -> list[pytest.Mark]:
    """Return the `load_scenario` marks of a module, class or function itself."""
    obj = obj.__func__ if isinstance(obj, staticmethod | classmethod) else obj
    try:
        # vars(): a class inherits the marks of its base, which were checked with the base.
        marks = vars(obj).get("pytestmark", [])
    except Exception:  # no __dict__, or a proxy, imported by a test module, that is not bound yet
        return []
    marks = marks if isinstance(marks, list) else [marks]
    plain = [mark.mark if isinstance(mark, pytest.MarkDecorator) else mark for mark in marks]
    return [mark for mark in plain if isinstance(mark, pytest.Mark) and mark.name == MARK]
