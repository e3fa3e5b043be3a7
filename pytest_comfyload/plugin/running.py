"""Which test runs: the results of loads are its own, and of every later test that shares the fixture that made them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from _pytest.nodes import Node

__all__ = ["RunningTest"]

_Results = dict[pytest.StashKey[list[Any]], list[Any]]


class RunningTest:
    """`item` is the test that is set up or called. A fixture of a class, module or session makes its results once."""

    def __init__(self) -> None:
        self.item: pytest.Item | None = None
        self._being_set_up: list[tuple[object, Node]] = []
        self._shared: dict[object, _Results] = {}

    @property
    def owner(self) -> Node:
        """Return what the results of a load belong to: the test, or the class or module whose fixture is set up."""
        assert self.item is not None
        owners = (node for _, node in self._being_set_up if isinstance(node, pytest.Class | pytest.Module))
        return next(owners, self.item)

    @contextmanager
    def setting_up(self, fixture: object, node: Node) -> Iterator[None]:
        """What is kept meanwhile belongs to the fixture of this node, too."""
        self._shared.pop(fixture, None)
        self._being_set_up.append((fixture, node))
        try:
            yield
        finally:
            self._being_set_up.pop()

    def keep(self, item: pytest.Item, key: pytest.StashKey[list[Any]], result: object) -> None:
        item.stash.setdefault(key, []).append(result)
        for fixture, _ in self._being_set_up:
            self._shared.setdefault(fixture, {}).setdefault(key, []).append(result)

    def share(self, item: pytest.Item) -> None:
        """Give a test the results that its fixtures made for an earlier one."""
        definitions = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
        for fixture in (each for found in definitions.values() for each in found):
            for key, results in self._shared.get(fixture, {}).items():
                own = item.stash.setdefault(key, [])
                own += [result for result in results if not any(result is each for each in own)]
