"""A run that measured the server's cache is invalid and says so: in class names, prompts, and the way out.

One hit among many is a fact that the summary shows; when most prompts are hits, the cache is what was measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from pytest_comfyload.result.outcome import CacheClass, Outcome
from pytest_comfyload.result.phases import is_loader, is_text_encoder

__all__ = ["always_ran", "cache_fault", "cached_in", "must_run_fault"]

_WAY_OUT = "vary a seed or an input, demand the work by must_run=[…], or pass allow_cached=True"


def cache_fault(measured: Sequence[Outcome], everything: Sequence[Outcome]) -> str | None:
    """Why the measured prompts say nothing of generating; `everything` holds the warm-up too."""
    good = [outcome for outcome in measured if outcome.succeeded]
    fully = [outcome for outcome in good if outcome.cache_class is CacheClass.FULLY]
    if 2 * len(fully) > len(good):
        verb = "prompt came" if len(good) == 1 else "prompts came"
        return (
            f"{_share(len(fully), len(good))} successful {verb} whole from the server's cache, where nothing is "
            f"generated; {_WAY_OUT}"
        )
    return _heavy_fault(good, everything)


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


def _heavy_fault(good: Sequence[Outcome], everything: Sequence[Outcome]) -> str | None:
    """Classes that took most of the first prompt that ran, and that most measured prompts had from the cache."""
    firsts = _first_uncached(everything)
    missing = [_missing(outcome, firsts[outcome.workflow]) for outcome in good if outcome.workflow in firsts]
    hit = [names for names in missing if names]
    if not hit or 2 * len(hit) <= len(good):
        return None
    names = ", ".join(dict.fromkeys(name for names in hit for name in names))
    return (
        f"{names} took most of the first prompt and came from the server's cache in {_share(len(hit), len(good))} "
        f"successful prompts; {_WAY_OUT}"
    )


def _first_uncached(outcomes: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    """Per workflow, the seconds by class of its first prompt that ran.

    Loaders and text encoders are left out: their first run is the loading of models, which a warm-up is for.
    """
    firsts: dict[str, dict[str, float]] = {}
    for outcome in sorted(outcomes, key=lambda outcome: outcome.intended):
        if outcome.succeeded and outcome.nodes and outcome.workflow not in firsts:
            times = firsts.setdefault(outcome.workflow, {})
            for node in outcome.nodes:
                if not is_loader(node.class_type) and not is_text_encoder(node.class_type):
                    times[node.class_type] = times.get(node.class_type, 0.0) + node.duration
    return firsts


def _missing(outcome: Outcome, first: Mapping[str, float]) -> list[str]:
    """The classes that this prompt had from the cache alone, if they held most of the first one's time."""
    cached = [name for name in outcome.cached if name in first and name not in outcome.ran]
    held = sum(first[name] for name in cached)
    return cached if 2 * held > sum(first.values()) else []


def _did_without(outcome: Outcome, class_type: str) -> bool:
    # A prompt whose end came from the history has no nodes to tell.
    return class_type in outcome.cached or (bool(outcome.nodes) and class_type not in outcome.ran)


def _share(part: int, whole: int) -> str:
    return f"all {whole}" if part == whole else f"{part} of {whole}"
