"""Which test runs: the results of loads are its own, and of every later test that shares the fixture that made them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from _pytest.nodes import Node

from pytest_comfyload.plugin.repetition import test_id

__all__ = ["RunningTest"]

_Results = dict[pytest.StashKey[list[Any]], list[Any]]


class RunningTest:
    """`item` is the test that is set up or called. A fixture of a class, module or session makes its results once."""

    def __init__(self) -> None:
        self.item: pytest.Item | None = None
        self._being_set_up: list[tuple[object, Node]] = []
        self._shared: dict[object, _Results] = {}

    @property
    def shared(self) -> bool:
        """Whether a load that begins now is one for all tests of a class or module."""
        return self._owner is not None

    @property
    def _owner(self) -> tuple[Any, Node] | None:
        """Return the fixture of a class or module that is set up, with its node."""
        owners = (each for each in self._being_set_up if isinstance(each[1], pytest.Class | pytest.Module))
        return next(owners, None)

    @property
    def name(self) -> str:
        """Return what the series of runs that begins now is named after: the test, or the fixture of several."""
        if self._owner is None:
            assert self.item is not None
            return test_id(self.item)
        fixture, node = self._owner
        return f"{test_id(node)}, {fixture.argname}"

    def numbered(self, key: pytest.StashKey[list[Any]], kind: str) -> str:
        """Return the name with the number of the next result: in their order, each is a series of its own."""
        if self._owner is None:
            assert self.item is not None
            before = len(self.item.stash.get(key, []))
        else:
            before = len(self._shared.get(self._owner[0], {}).get(key, []))
        return f"{self.name}, {kind} {before + 1}" if before else self.name

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
