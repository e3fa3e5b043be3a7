"""How long nodes took in runs that were kept, for a simulator that is to take as long."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from pytest_comfyload.errors import UsageError
from pytest_comfyload.history.git import Git
from pytest_comfyload.history.index import Row
from pytest_comfyload.history.refs import select
from pytest_comfyload.history.store import Store
from pytest_comfyload.result.outcome import Outcome

__all__ = ["node_times_of"]


def node_times_of(store: Store, rows: Sequence[Row], ref: str, git: Git) -> dict[str, float]:
    """Return the median seconds of the nodes of each class, over the successful prompts of the runs that `ref` names.

    Warm-up prompts, which load models, count for classes that ran in no other prompt, as loaders do.

    Raises: UsageError for a name without a run, or runs without any node that ran; StoreError.
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
