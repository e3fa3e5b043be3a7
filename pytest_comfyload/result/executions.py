"""What a run's prompts had the server do: how often nodes of each class were executed, and were not cached.

Two runs measure the same only where they did the same work: a text encoder that runs in every prompt of one and is
cached in all of the other makes the second faster whatever the commits between them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from pytest_comfyload.result.columns import Work

__all__ = ["Executions", "combined", "differing", "executed"]

# By workflow and node class, the number of prompts in which 0, 1, 2, … nodes of the class were executed: up to how many
# the workflow has.
Executions: TypeAlias = Mapping[str, Mapping[str, Sequence[int]]]
_Classes: TypeAlias = Mapping[str, Sequence[int]]

# What is less, as a share of a class's nodes, changes no median.
LEAST = 0.05
# Standard errors: prompts draw models and sizes by chance, so that what they find in a cache differs from run to run.
SURE = 3.0


def executed(done: Mapping[Work, int], nodes: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, list[int]]]:
    """Count executions of successful prompts whose nodes are known.

    Args:
        done: How many prompts had the server do what.
        nodes: By workflow, how many of each class it executes.
    """
    work = {workflow: {name: [0] * (count + 1) for name, count in of.items()} for workflow, of in nodes.items()}
    for each, count in done.items():
        if each.nodes:
            ran = Counter(dict(each.nodes).values())
            for name, prompts in work.get(each.workflow, {}).items():
                prompts[min(ran[name], len(prompts) - 1)] += count
    return {workflow: of for workflow, of in work.items() if any(map(sum, of.values()))}


def combined(works: Iterable[Executions]) -> dict[str, dict[str, list[int]]]:
    """Combine the counts of several runs.

    Of a class whose number of nodes was changed, from the run on that has the last one.
    """
    total: dict[str, dict[str, list[int]]] = {}
    for work in works:
        for workflow, classes in work.items():
            of = total.setdefault(workflow, {})
            for name, prompts in classes.items():
                earlier = of.get(name, ())
                same = len(earlier) == len(prompts)
                of[name] = [a + b for a, b in zip(earlier, prompts, strict=True)] if same else list(prompts)
    return total


def differing(before: Executions, after: Executions, names: tuple[str, str] = ("before", "now")) -> tuple[str, ...]:
    """The classes that ran more often in one than in the other: `KSampler ran 2× per prompt before, 1× now`.

    Compared is what both have: a workflow of the same name, or else the only one of each, and in it the classes with
    equally many nodes, since what was added or taken away is meant. Empty where nothing tells them apart.
    """
    found: dict[str, None] = {}
    for ours, theirs in _workflows(before, after):
        for name, a in ours.items():
            b = theirs.get(name, ())
            if len(a) == len(b) and _differ(a, b):
                found[f"{name} ran {_often(_mean(a), _mean(b), names)}"] = None
    return tuple(found)


def _workflows(before: Executions, after: Executions) -> Iterator[tuple[_Classes, _Classes]]:
    if len(before) == len(after) == 1:
        yield next(iter(before.values())), next(iter(after.values()))
        return
    for workflow in before:
        if workflow in after:
            yield before[workflow], after[workflow]


def _differ(a: Sequence[int], b: Sequence[int]) -> bool:
    nodes = len(a) - 1
    if nodes < 1 or min(*a, *b) < 0 or not sum(a) or not sum(b):  # a record may come from elsewhere
        return False
    seen = [count for count, prompts in enumerate(zip(a, b, strict=True)) if any(prompts)]
    errors = (_error(prompts, seen[0], seen[-1]) for prompts in (a, b))
    return abs(_mean(a) - _mean(b)) > max(LEAST * nodes, SURE * math.hypot(*errors))


def _mean(prompts: Sequence[int]) -> float:
    return sum(count * times for count, times in enumerate(prompts)) / sum(prompts)


def _error(prompts: Sequence[int], fewest: int, most: int) -> float:
    """Of the mean. As if there were two prompts more, with as few and as many executions as any prompt had in either
    run: a few prompts that are alike do not show that all are.
    """
    padded = [times + (count == fewest) + (count == most) for count, times in enumerate(prompts)]
    mean, n = _mean(padded), sum(padded)
    variance = sum(times * (count - mean) ** 2 for count, times in enumerate(padded)) / n
    return math.sqrt(variance / n)


def _often(a: float, b: float, names: tuple[str, str]) -> str:
    """Say in how many prompts, or how often in each where that is more than once."""
    if max(a, b) <= 1:
        return f"in {100 * a:.0f} % of prompts {names[0]}, {100 * b:.0f} % {names[1]}"
    return f"{a:.3g}× per prompt {names[0]}, {b:.3g}× {names[1]}"
