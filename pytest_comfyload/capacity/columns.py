"""Columns of numbers, one for each prompt: arrays where numpy is installed, else lists.

A plan goes over hundreds of thousands of prompts for each fleet that it tries. What is the same for all of them is done
by columns here; only what depends on the prompt before is a loop.
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
except ImportError:  # it is an extra
    np = None

# A list, or an array of numpy.
Column: TypeAlias = Sequence[Any]


def column(values: Sequence[Any]) -> Column:
    return list(values) if np is None else np.asarray(values)


def listed(values: Column) -> list[Any]:
    """Return a list of plain numbers, which loops are faster with."""
    return values if isinstance(values, list) else list(values) if np is None else np.asarray(values).tolist()


def joined(columns: Sequence[Column]) -> Column:
    """Return all values, one column after the other."""
    known = [each for each in columns if len(each)]  # of an empty one numpy cannot know the type
    if np is None or not known:
        return list(itertools.chain.from_iterable(known))
    return known[0] if len(known) == 1 else np.concatenate(known)


def plus(one: Column, other: Column) -> Column:
    return list(map(operator.add, one, other)) if np is None else np.add(one, other)


def minus(one: Column, other: Column) -> Column:
    return list(map(operator.sub, one, other)) if np is None else np.subtract(one, other)


def take(values: Column, places: Column) -> Column:
    """Return the values at these places."""
    return list(map(values.__getitem__, places)) if np is None else np.take(values, places)


def select(values: Column, keep: Column) -> Column:
    """Return the values that are to be kept."""
    return list(itertools.compress(values, keep)) if np is None else np.compress(keep, values)


def below(values: Column, bound: float) -> Column:
    """Return which of them are less."""
    return list(map(bound.__gt__, values)) if np is None else np.less(values, bound)


def equal(values: Column, value: float) -> Column:
    """Return which of them are so much."""
    return list(map(value.__eq__, values)) if np is None else np.equal(values, value)


def order_of(values: Column) -> Column:
    """Return the places of the values in ascending order; equal ones stay as they are."""
    return sorted(range(len(values)), key=values.__getitem__) if np is None else np.argsort(values, kind="stable")


def divided(values: Column, divisor: float) -> Column:
    return [value / divisor for value in values] if np is None else np.divide(values, divisor)


def repeated(values: Sequence[int], times: int) -> Column:
    """Return each value so many times."""
    return [value for value in values for _ in range(times)] if np is None else np.repeat(np.asarray(values), times)


def counts(kinds: Column, many: int) -> list[int]:
    """Return how many there are of each kind, from 0."""
    if np is None:
        return [kinds.count(kind) for kind in range(many)]
    return listed(np.bincount(np.asarray(kinds, dtype=np.int64), minlength=many))


def places(quantiles: Column, kinds: Column, sizes: Sequence[int]) -> Column:
    """Return where each quantile is in the pool of its kind; pools of these sizes lie one after the other."""
    before = list(itertools.accumulate(sizes, initial=0))
    if np is None:
        return [before[kind] + int(each * sizes[kind]) for each, kind in zip(quantiles, kinds, strict=True)]
    kinds = np.asarray(kinds, dtype=np.int64)  # of no prompts at all it is no column of numbers yet
    return plus(np.take(before, kinds), (quantiles * np.take(sizes, kinds)).astype(np.int64))


def hours_of(times: Column, hour: float) -> Column:
    """Return in which hour of a day each time is; `hour` in its unit."""
    return [int(time // hour) % 24 for time in times] if np is None else (np.floor_divide(times, hour) % 24).astype(int)


def total_of(values: Column) -> float:
    return math.fsum(values) if np is None else float(np.sum(values))


def session_prompts(starts: Sequence[float], uniforms: Sequence[float], size: int, gap: float) -> tuple[Column, Column]:
    """Return when the prompts of sessions come, and the quantiles of their services, session by session.

    `uniforms`: of each session the quantiles of its prompts, and where there are pauses, of `gap` seconds on average,
    one between each two of them.
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
    """Return the greatest of them, 0 of none."""
    return float(max(values, default=0.0) if np is None else np.max(values, initial=0.0))
