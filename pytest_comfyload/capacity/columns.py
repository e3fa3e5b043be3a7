"""Columns of numbers, one for each prompt: arrays if numpy is installed, else lists.

A plan processes hundreds of thousands of prompts for each fleet that it tries. Operations on independent prompts are
vectorized here; only computations that depend on the previous prompt are loops.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any, TypeAlias

__all__ = [
    "Column", "below", "column", "counts", "divided", "equal", "greatest", "hours_of", "joined", "listed", "minus",
    "order_of", "places", "plus", "repeated", "select", "session_prompts", "take", "total_of",
]  # fmt: skip

np: Any
try:
    import numpy as np
except ImportError:  # it is an optional dependency
    np = None

# A list, or a numpy array.
Column: TypeAlias = Sequence[Any]


def column(values: Sequence[Any]) -> Column:
    return list(values) if np is None else np.asarray(values)


def listed(values: Column) -> list[Any]:
    """Return a list of plain numbers, over which loops are faster."""
    return values if isinstance(values, list) else list(values) if np is None else np.asarray(values).tolist()


def joined(columns: Sequence[Column]) -> Column:
    """Return the concatenation of the columns."""
    known = [each for each in columns if len(each)]  # numpy cannot infer the type of an empty one
    if np is None or not known:
        return list(itertools.chain.from_iterable(known))
    return known[0] if len(known) == 1 else np.concatenate(known)


def plus(one: Column, other: Column) -> Column:
    return list(map(operator.add, one, other)) if np is None else np.add(one, other)


def minus(one: Column, other: Column) -> Column:
    return list(map(operator.sub, one, other)) if np is None else np.subtract(one, other)


def take(values: Column, places: Column) -> Column:
    """Return the values at these indices."""
    return list(map(values.__getitem__, places)) if np is None else np.take(values, places)


def select(values: Column, keep: Column) -> Column:
    """Return the values for which `keep` is true."""
    return list(itertools.compress(values, keep)) if np is None else np.compress(keep, values)


def below(values: Column, bound: float) -> Column:
    """Return for each value whether it is less than the bound."""
    return list(map(bound.__gt__, values)) if np is None else np.less(values, bound)


def equal(values: Column, value: float) -> Column:
    """Return for each of the values whether it equals `value`."""
    return list(map(value.__eq__, values)) if np is None else np.equal(values, value)


def order_of(values: Column) -> Column:
    """Return the indices that sort the values in ascending order; the sort is stable."""
    return sorted(range(len(values)), key=values.__getitem__) if np is None else np.argsort(values, kind="stable")


def divided(values: Column, divisor: float) -> Column:
    return [value / divisor for value in values] if np is None else np.divide(values, divisor)


def repeated(values: Sequence[int], times: int) -> Column:
    """Return each value `times` times in a row."""
    return [value for value in values for _ in range(times)] if np is None else np.repeat(np.asarray(values), times)


def counts(kinds: Column, many: int) -> list[int]:
    """Return the number of occurrences of each kind from 0 to `many` - 1."""
    if np is None:
        return [kinds.count(kind) for kind in range(many)]
    return listed(np.bincount(np.asarray(kinds, dtype=np.int64), minlength=many))


def places(quantiles: Column, kinds: Column, sizes: Sequence[int]) -> Column:
    """Return the index of each quantile in the pool of its kind, where pools of these sizes are concatenated."""
    before = list(itertools.accumulate(sizes, initial=0))
    if np is None:
        return [before[kind] + int(each * sizes[kind]) for each, kind in zip(quantiles, kinds, strict=True)]
    kinds = np.asarray(kinds, dtype=np.int64)  # without any prompts, its type is not known yet
    return plus(np.take(before, kinds), (quantiles * np.take(sizes, kinds)).astype(np.int64))


def hours_of(times: Column, hour: float) -> Column:
    """Return the hour of the day of each time; `hour` is the length of an hour in the unit of the times."""
    return [int(time // hour) % 24 for time in times] if np is None else (np.floor_divide(times, hour) % 24).astype(int)


def total_of(values: Column) -> float:
    return math.fsum(values) if np is None else float(np.sum(values))


def session_prompts(starts: Sequence[float], uniforms: Sequence[float], size: int, gap: float) -> tuple[Column, Column]:
    """Return the arrival times of the prompts of sessions and their service time quantiles, session by session.

    `uniforms` has the quantiles of the prompts of each session. If there are pauses, of `gap` seconds on average, the
    uniform number of each pause is between the quantiles of the two prompts around it.
    """
    step = 2 if gap else 1
    width = step * size - step + 1
    if np is None:
        ats = (
            (
                itertools.accumulate(
                    (-math.log(1.0 - each) * gap for each in uniforms[at + 1 : at + width : 2]), initial=start
                )
                for start, at in zip(starts, range(0, len(uniforms), width), strict=True)
            )
            if gap
            else ([start] * size for start in starts)
        )
        blocks = (uniforms[at : at + width : step] for at in range(0, len(uniforms), width))
        return list(itertools.chain.from_iterable(ats)), list(itertools.chain.from_iterable(blocks))
    drawn = np.asarray(uniforms, dtype=float).reshape(len(starts), width)
    at = np.repeat(np.asarray(starts, dtype=float)[:, None], size, axis=1)
    if gap:
        at[:, 1:] = -np.log(1.0 - drawn[:, 1::2]) * gap
        at = np.add.accumulate(at, axis=1)
    return at.ravel(), drawn[:, ::step].ravel()


def greatest(values: Column) -> float:
    """Return the greatest value, 0 if there is none."""
    return float(max(values, default=0.0) if np is None else np.max(values, initial=0.0))
