"""Prompts of one kind, by workflow and cache class, are alike on one server: only among those is anything redrawn."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence

from pytest_comfyload.metrics.replay import Service
from pytest_comfyload.result.outcome import CacheClass, Outcome

__all__ = ["deviations", "pools"]

_Kind = tuple[str, CacheClass | None]


def pools(
    outcomes: Sequence[Outcome], services: Sequence[Service], servers: Sequence[str]
) -> list[list[Sequence[Service]]]:
    """For each prompt, and each server, what its kind asked of it; where none ran there, what it asked elsewhere."""
    kinds = _kinds(outcomes)
    there: dict[tuple[_Kind, str], list[Service]] = defaultdict(list)
    anywhere: dict[_Kind, list[Service]] = defaultdict(list)
    for kind, outcome, service in zip(kinds, outcomes, services, strict=True):
        there[kind, outcome.server].append(service)
        anywhere[kind].append(service)
    rows: dict[_Kind, list[Sequence[Service]]] = {
        kind: [there.get((kind, server), everything) for server in servers] for kind, everything in anywhere.items()
    }
    return [rows[kind] for kind in kinds]


def deviations(outcomes: Sequence[Outcome]) -> list[list[float]]:
    """By server, in order of running: how far each generation time is from the mean of its kind there."""
    times: dict[tuple[_Kind, str], list[float]] = defaultdict(list)
    order: dict[str, list[tuple[float, float, _Kind]]] = defaultdict(list)
    for kind, outcome in zip(_kinds(outcomes), outcomes, strict=True):
        line, generation = outcome.timeline, outcome.generation_time
        if outcome.succeeded and generation is not None and line is not None and line.started is not None:
            times[kind, outcome.ran_on].append(generation)
            order[outcome.ran_on].append((line.started, generation, kind))
    means = {stratum: statistics.fmean(values) for stratum, values in times.items()}
    return [
        [generation - means[kind, server] for _, generation, kind in sorted(ran, key=lambda each: each[0])]
        for server, ran in order.items()
    ]


def _kinds(outcomes: Sequence[Outcome]) -> list[_Kind]:
    """A failure that ended before its cache class was known has the usual one of its workflow."""
    seen: dict[str, Counter[CacheClass]] = defaultdict(Counter)
    for outcome in outcomes:
        if outcome.cache_class is not None:
            seen[outcome.workflow][outcome.cache_class] += 1
    usual = {workflow: classes.most_common(1)[0][0] for workflow, classes in seen.items()}
    return [(each.workflow, each.cache_class or usual.get(each.workflow)) for each in outcomes]
