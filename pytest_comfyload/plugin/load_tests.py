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
    return not fixtures.isdisjoint(getattr(item, "fixturenames", ()))


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
