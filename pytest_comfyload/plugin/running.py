"""The running test: results of loads belong to it, and to every later test that shares the fixture that made them."""

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
    """Tracker of the test that is being set up or called, `item`.

    A fixture of a class, module or session makes its results once, for all tests that share it.
    """

    def __init__(self) -> None:
        self.item: pytest.Item | None = None
        self._being_set_up: list[tuple[object, Node]] = []
        self._shared: dict[object, _Results] = {}

    @property
    def shared(self) -> bool:
        """Whether a load that begins now is shared by all tests of a class or module."""
        return self._owner is not None

    @property
    def _owner(self) -> tuple[Any, Node] | None:
        """The class- or module-scoped fixture that is being set up, with its node; None if there is none."""
        owners = (each for each in self._being_set_up if isinstance(each[1], pytest.Class | pytest.Module))
        return next(owners, None)

    @property
    def name(self) -> str:
        """Name of the series of a run that begins now: that of the test, or of the fixture that tests share."""
        if self._owner is None:
            assert self.item is not None
            return test_id(self.item)
        fixture, node = self._owner
        return f"{test_id(node)}, {fixture.argname}"

    def numbered(self, key: pytest.StashKey[list[Any]], kind: str) -> str:
        """Return the name with the number of the next result: each result of a test has a series of its own."""
        if self._owner is None:
            assert self.item is not None
            before = len(self.item.stash.get(key, []))
        else:
            before = len(self._shared.get(self._owner[0], {}).get(key, []))
        return f"{self.name}, {kind} {before + 1}" if before else self.name

    @contextmanager
    def setting_up(self, fixture: object, node: Node) -> Iterator[None]:
        """Assign results that are kept during the `with` block to this fixture, too."""
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
        """Give a test the results that its fixtures made for an earlier test."""
        definitions = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
        for fixture in (each for found in definitions.values() for each in found):
            for key, results in self._shared.get(fixture, {}).items():
                own = item.stash.setdefault(key, [])
                own += [result for result in results if not any(result is each for each in own)]
