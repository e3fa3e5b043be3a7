"""Groups of the prompts of a run: by a fact of the prompt, or by an input."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Sequence
from operator import itemgetter
from typing import TypeVar

from pytest_comfyload.errors import UsageError, nearest
from pytest_comfyload.result.outcome import Outcome

__all__ = ["FACTS", "Groups", "grouped", "value_of"]

T = TypeVar("T")

FACTS = ("workflow", "server", "worker", "group", "stage", "user", "cache_class")


class Groups(dict[Hashable, T]):
    """What was made of each group, by its value; a value that no prompt had is refused."""

    def __init__(self, key: str, members: Iterable[tuple[Hashable, T]]) -> None:
        super().__init__(members)
        self._key = key

    def __missing__(self, value: object) -> T:
        seen = nearest(_written(value), map(_written, self)) or "none"
        raise UsageError(f'by("{self._key}")[{value!r}]: no prompt had that; there are: {seen}')


def _written(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def grouped(key: str, outcomes: Sequence[Outcome]) -> list[tuple[Hashable, list[Outcome]]]:
    """Return value and prompts of each group; prompts without a value are in none.

    Numbers ascend, so that the order of users or steps is the same in each run; other values come in the order of
    their first prompts. Raises: UsageError for a key that no prompt knows.
    """
    if key not in FACTS:
        _expect_input(key, outcomes)
    groups: dict[Hashable, list[Outcome]] = {}
    for outcome in outcomes:
        value = value_of(key, outcome)
        if value is not None:
            groups.setdefault(value, []).append(outcome)
    if all(isinstance(value, int | float) for value in groups):
        return sorted(groups.items(), key=itemgetter(0))
    return list(groups.items())


def value_of(key: str, outcome: Outcome) -> Hashable:
    """Return what a prompt has under a key; links and objects as their JSON; None: nothing."""
    if key in FACTS:
        fact: Hashable = getattr(outcome, key)
        return fact
    value = outcome.inputs.get(key)
    return value if isinstance(value, Hashable) else json.dumps(value)


def _expect_input(key: str, outcomes: Sequence[Outcome]) -> None:
    legal = [*FACTS, *dict.fromkeys(address for outcome in outcomes for address in outcome.inputs)]
    if key not in legal:
        near = nearest(str(key), legal, limit=len(legal))
        raise UsageError(f"by({key!r}): legal are {near}; inputs by the address that the scenario uses")
