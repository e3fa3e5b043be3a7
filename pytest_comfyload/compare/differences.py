"""What differs between two runs besides their figures: the subject, what users compare, and the environment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["differences", "moved_nodes"]

_ABSENT = "none"
# Of a class that took less, nothing is said.
_LEAST_SHARE = 0.1
# How far the moves of all classes together may be from the change that they explain, as a share of it.
_TOLERANCE = 0.5


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """`KSampler.steps 2 → 6`, in the order of the later run."""
    names = dict.fromkeys([*after, *before])
    return tuple(
        f"{name} {_shown(before.get(name))} → {_shown(after.get(name))}"
        for name in names
        if before.get(name) != after.get(name)
    )


def moved_nodes(
    before: Mapping[str, float], after: Mapping[str, float], change: float, most: int = 3
) -> tuple[str, ...]:
    """Node classes whose time moved; the first moved most. Those with a tenth of the whole or more.

    `before` and `after` are seconds of a prompt by class: `KSampler 0.42 → 0.84 s (+0.42)`. `change`, of the whole
    prompt in seconds, is what they explain: where all moves together are not about as much, none is named.
    """
    moves = {name: after.get(name, 0.0) - before.get(name, 0.0) for name in dict.fromkeys([*after, *before])}
    if abs(sum(moves.values()) - change) > _TOLERANCE * abs(change):
        return ()
    whole = sum(abs(move) for move in moves.values())
    order = sorted(moves, key=lambda name: -abs(moves[name]))[:most]
    return tuple(
        f"{name} {before.get(name, 0.0):.3g} → {after.get(name, 0.0):.3g} s ({moves[name]:+.2g})".replace("-", "−")
        for name in order
        if whole and abs(moves[name]) >= _LEAST_SHARE * whole
    )


def _shown(value: Any) -> str:
    if value is None:
        return _ABSENT
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str):
        # In the middle: names of models differ at their ends.
        return value if len(value) <= 60 else f"{value[:30]}…{value[-29:]}"
    return ", ".join(map(str, value)) if _is_list(value) else str(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, Mapping)
