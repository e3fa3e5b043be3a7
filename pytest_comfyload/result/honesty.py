"""A prompt whose work came from the server's cache is no measurement, and a run with many of them is invalid.

What must run is known of each prompt when it is sent: the nodes with new input (`scenario/fresh.py`). A run says so in
class names, prompts, and the way out; fewer such prompts are left out of the times, and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from pytest_comfyload.result.outcome import Outcome

__all__ = ["always_ran", "cache_fault", "cached_in", "measurements", "must_run_fault"]

# Of the successful prompts; with more of them the queue was not the one that the load would have made.
MOST_CACHED = 0.05


def cache_fault(measured: Sequence[Outcome]) -> str | None:
    """Why the measured prompts say nothing of generating."""
    good = [outcome for outcome in measured if outcome.succeeded]
    hits = [outcome for outcome in good if outcome.from_cache]
    if len(hits) <= MOST_CACHED * len(good):
        return None
    share = "the only successful prompt" if len(good) == 1 else f"{_share(len(hits), len(good))} successful prompts"
    if names := dict.fromkeys(name for outcome in hits for name in outcome.reused):
        return (
            f"{', '.join(names)} had new input and came from the server's cache in {share}: an earlier run has sent "
            "the same; leave out seed= or give another one, empty the cache (restart the server, or POST /free "
            '{"free_memory": true}), or pass allow_cached=True'
        )
    return (
        f"{share} came whole from the server's cache, where nothing is generated; vary a seed or an input, demand the "
        "work by must_run=[…], or pass allow_cached=True"
    )


def measurements(outcomes: Iterable[Outcome], *, allow_cached: bool) -> list[Outcome]:
    """Those whose times count; a failure is one of them, whatever was cached."""
    return [outcome for outcome in outcomes if allow_cached or not (outcome.succeeded and outcome.from_cache)]


def must_run_fault(measured: Sequence[Outcome], must_run: Sequence[str]) -> str | None:
    """Which class of `must_run` a prompt did without."""
    good = [outcome for outcome in measured if outcome.succeeded]
    for class_type in must_run:
        if idle := sum(1 for outcome in good if _did_without(outcome, class_type)):
            return (
                f"must_run: {class_type} did not run in {_share(idle, len(good))} successful prompts, where it was "
                f"cached or leads to no output; give it more values to draw: inputs={{'{class_type}.…': [..., ...]}}"
            )
    return None


def cached_in(measured: Iterable[Outcome]) -> Mapping[str, int]:
    """In how many successful prompts a class came from the cache and none of its nodes ran; most frequent first."""
    good = [outcome for outcome in measured if outcome.succeeded]
    counts = Counter(name for outcome in good for name in outcome.cached if name not in outcome.ran)
    return dict(counts.most_common())


def always_ran(measured: Iterable[Outcome]) -> tuple[str, ...]:
    """The classes of which a node ran in every successful prompt, in the order of their first run."""
    good = [outcome for outcome in measured if outcome.succeeded]
    order = dict.fromkeys(node.class_type for outcome in good[:1] for node in outcome.nodes)
    return tuple(name for name in order if all(name in outcome.ran for outcome in good))


def _did_without(outcome: Outcome, class_type: str) -> bool:
    # A prompt whose end came from the history has no nodes to tell.
    return class_type in outcome.cached or (bool(outcome.nodes) and class_type not in outcome.ran)


def _share(part: int, whole: int) -> str:
    return f"all {whole}" if part == whole else f"{part} of {whole}"
