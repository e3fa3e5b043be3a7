"""Calibration of a simulator: the node times of stored runs, which it reproduces."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from pytest_comfyload.errors import UsageError
from pytest_comfyload.history.git import Git
from pytest_comfyload.history.index import Row
from pytest_comfyload.history.refs import select
from pytest_comfyload.history.store import Store
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.service_times import gaps_between
from pytest_comfyload.simulator.settings import Calibration, MeasuredPrompt

__all__ = ["calibration_of", "node_times_of"]


def calibration_of(store: Store, rows: Sequence[Row], ref: str, git: Git) -> Calibration:
    """Return the times of the runs that `ref` names, as the service times of a simulator.

    The times of one prompt are kept together and sum to its `generation_time`. Warm-up prompts, which load models, are
    included: they ran the loader nodes, and are drawn for prompts that run loaders. Raises: UsageError, StoreError.
    """
    times = node_times_of(store, rows, ref, git)
    runs = [[each for each in store.load(row).outcomes if each.succeeded] for row in select(ref, rows, git)]
    prompts = [prompt for run in runs for prompt in map(_measured, run) if prompt is not None]
    return Calibration(times, prompts, gaps_between(runs))


def _measured(outcome: Outcome) -> MeasuredPrompt | None:
    """Return the node times of a prompt; None if the server's timestamps are void or no node ran."""
    whole, nodes = outcome.generation_time, sum(node.duration for node in outcome.nodes)
    if whole is None or not nodes:
        return None
    # Node times are measured by the arrival of events at the client, so their sum may slightly exceed the total.
    scale = min(1.0, whole / nodes)
    times: dict[str, list[float]] = {}
    for node in outcome.nodes:
        times.setdefault(node.class_type, []).append(scale * node.duration)
    return MeasuredPrompt(times, max(0.0, whole - nodes), outcome.warmup or outcome.model_load_time > 0)


def node_times_of(store: Store, rows: Sequence[Row], ref: str, git: Git) -> dict[str, float]:
    """Return the median seconds by node class, over the successful prompts of the runs that `ref` names.

    Warm-up prompts, which load models, count only for classes that ran in no other prompt, such as loaders.

    Raises:
        UsageError: `ref` names no run, or no node ran in its runs.
        StoreError: A run cannot be read.
    """
    outcomes = [outcome for row in select(ref, rows, git) for outcome in store.load(row).outcomes if outcome.succeeded]
    loading = _medians(outcome for outcome in outcomes if outcome.warmup)
    times = {**loading, **_medians(outcome for outcome in outcomes if not outcome.warmup)}
    if not times:
        raise UsageError(f"{ref!r} has no node that ran in a successful prompt; calibrate by another run")
    return times


def _medians(outcomes: Iterable[Outcome]) -> dict[str, float]:
    times: dict[str, list[float]] = {}
    for outcome in outcomes:
        for node in outcome.nodes:
            times.setdefault(node.class_type, []).append(node.duration)
    return {class_type: statistics.median(seconds) for class_type, seconds in sorted(times.items())}
