"""Whether a run is a measurement: cached work, impossible time stamps, and the delay that the generator added.

What must run is known of each prompt when it is sent: the nodes with new input (`workflow/must_run.py`). A run says so
in class names, prompts, and the way out; fewer such prompts are left out of the times, and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pytest_comfyload.metrics.intervals import percentile
from pytest_comfyload.metrics.units import counted
from pytest_comfyload.protocol.server_clock import ClockStep
from pytest_comfyload.result.columns import Columns, Work
from pytest_comfyload.result.outcome import CacheClass, Outcome, OutcomeStatus
from pytest_comfyload.result.run_facts import RunFacts, Stall

__all__ = [
    "always_ran",
    "cache_fault",
    "cached_in",
    "credibility_notes",
    "generator_fault",
    "measurements",
    "must_run_fault",
    "stamps_fault",
]

# Of the successful prompts; with more of them the queue was not the one that the load would have made.
MOST_CACHED = 0.05


def cache_fault(measured: Sequence[Outcome]) -> str | None:
    """Return why the measured prompts say nothing of generating."""
    good = _good(measured)
    hits = [outcome for outcome in good if outcome.reused or outcome.cache_class is CacheClass.FULLY]
    if len(hits) <= MOST_CACHED * len(good):
        return None
    share = "the only successful prompt" if len(good) == 1 else f"{_share(len(hits), len(good))} successful prompts"
    if names := dict.fromkeys(name for outcome in hits for name in outcome.reused):
        return (
            f"{', '.join(names)} had new input and came from the server's cache in {share}: an earlier run sent "
            "the same; leave out seed= or give another one, empty the cache (restart the server, or POST /free "
            '{"free_memory": true}), or pass allow_cached=True'
        )
    return (
        f"{share} came whole from the server's cache, where nothing is generated; vary a seed or an input, demand the "
        "work by must_run=[…], or pass allow_cached=True"
    )


def measurements(outcomes: Iterable[Outcome], *, allow_cached: bool) -> list[Outcome]:
    """Select the outcomes whose times count; a failure is one of them, whatever was cached."""
    if allow_cached:
        return list(outcomes)
    # Few are from the cache, and all of them are asked: the rarer question first.
    return [
        outcome
        for outcome in outcomes
        if not (outcome.reused or outcome.cache_class is CacheClass.FULLY) or not outcome.succeeded
    ]


def must_run_fault(measured: Sequence[Outcome], must_run: Sequence[str]) -> str | None:
    """Return which class of `must_run` a prompt did without."""
    good = _good(measured)
    for class_type in must_run:
        if idle := sum(1 for outcome in good if _did_without(outcome, class_type)):
            return (
                f"must_run: {class_type} did not run in {_share(idle, len(good))} successful prompts, where it was "
                f"cached or leads to no output; give it more values to draw: inputs={{'{class_type}.…': [..., ...]}}"
            )
    return None


def cached_in(done: Mapping[Work, int]) -> Mapping[str, int]:
    """Count in how many successful prompts a class came from the cache and none of its nodes ran.

    Most frequent first.
    """
    counts: Counter[str] = Counter()
    for work, prompts in done.items():
        counts.update(dict.fromkeys((name for name in work.cached if name not in work.classes), prompts))
    return dict(counts.most_common())


def always_ran(done: Iterable[Work]) -> tuple[str, ...]:
    """The classes of which a node ran in every successful prompt, in the order of their first run."""
    classes = [work.classes for work in done]
    return tuple(name for name in dict.fromkeys(classes[0] if classes else ()) if all(name in each for each in classes))


def _good(outcomes: Iterable[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.status is OutcomeStatus.SUCCESS]


def _did_without(outcome: Outcome, class_type: str) -> bool:
    # A prompt whose end came from the history has no nodes to tell.
    return class_type in outcome.cached or (bool(outcome.nodes) and class_type not in outcome.ran)


def _share(part: int, whole: int) -> str:
    return f"all {whole}" if part == whole else f"{part} of {whole}"


# The part of the successful prompts that may be without phases.
MOST_VOID = 0.05
# What the generator may add to the median prompt: a part of `max_send_lag`, or of the median total time.
OF_LAG, OF_TOTAL, OF_SIMULATED_TOTAL = 0.05, 0.05, 0.2
MOST_FAST = 20.0


def stamps_fault(measured: Iterable[Outcome]) -> str | None:
    """Too many successful prompts have stamps that cannot be right."""
    good = _good(measured)
    void = sum([outcome.void for outcome in good])
    if void <= MOST_VOID * len(good):
        return None
    return (
        f"the server's time stamps cannot be right in {void} of {len(good)} successful prompts: their phases are void, "
        "and only send_lag, fetch_time and total_time are known"
    )


def generator_fault(facts: RunFacts, measured: Columns) -> str | None:
    """The generator may have changed the times of this run by more than is allowed."""
    send_lags, limit = measured.timed("send_lag").values, facts.max_send_lag
    for each in facts.generators:
        if each.send_lag is not None and each.send_lag > limit:
            return (
                f"{each.name} was late (send_lag p99 {each.send_lag * 1000:.0f} > {limit * 1000:.0f} ms); "
                f"{_way_out(facts)}"
            )
    if send_lags and (late := percentile(send_lags, 99)) > limit:
        return f"the generator was late (send_lag p99 {late * 1000:.0f} > {limit * 1000:.0f} ms); {_way_out(facts)}"
    good = measured.among(measured.succeeded)
    added = good.timed("generator_lag").values
    return _saturated(facts, good.timed("total_time").values, added) if added else None


def _saturated(facts: RunFacts, times: Sequence[float], added: Sequence[float]) -> str | None:
    scale = facts.time_scale or 1.0
    total = percentile(times, 50) / scale
    of_total = (OF_SIMULATED_TOTAL if scale > 1 else OF_TOTAL) * total
    of_lag = facts.max_send_lag * min(max(scale, 1.0), MOST_FAST)
    lags = f"event loop lag p99 {_ms(facts.loop_lag)}, worst {_ms(facts.worst_loop_lag)}"
    if (typical := percentile(added, 50)) > (limit := max(OF_LAG * of_lag, of_total)):
        return (
            f"the generator was saturated: it may have added {_ms(typical)} to the median total_time of {_ms(total)}, "
            f"more than {_ms(limit)} ({lags}); {_way_out(facts)}"
        )
    if (worst := percentile(added, 99)) > (limit := max(of_lag, of_total)):
        return (
            f"the generator stalled: it may have added {_ms(worst)} (p99) to total_time, more than {_ms(limit)} "
            f"({lags}); {_way_out(facts)}"
        )
    return None


def credibility_notes(
    steps: Mapping[str, Sequence[ClockStep]], stalls: Sequence[Stall], begin: float, outcomes: Sequence[Outcome]
) -> Iterator[str]:
    """Yield what a reader must know of clocks and generator; `begin`: of the measured window, on the run's clock."""
    void = sum(1 for outcome in outcomes if outcome.void)
    for server, found in steps.items():
        yield f"{server}: {_clock(found, begin)}"
    if void:
        yield f"the server's time stamps of {counted(void, 'prompt')} cannot be right: their phases are void"
    if stalls:
        longest = max(stalls, key=lambda stall: stall.length)
        yield (
            f"the generator stalled {_times(len(stalls))}, for up to {longest.length:.1f} s "
            f"({max(0.0, longest.at - begin):.1f} s into the load): "
            f"{counted(sum(1 for outcome in outcomes if outcome.stalled), 'prompt')} under way"
        )


def _clock(steps: Sequence[ClockStep], begin: float) -> str:
    if len(steps) > 1:
        return f"its time stamps contradict each other {len(steps)} times; they come from several clocks, or from none"
    (step,) = steps
    way = "forward" if step.shift > 0 else "back"
    by, at = abs(step.shift), max(0.0, step.end - begin)
    return f"its clock was set {way} by at least {by:.2g} s, {at:.1f} s into the load"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _way_out(facts: RunFacts) -> str:
    return f"use fewer users or a faster machine for it, or raise max_send_lag ({_ms(facts.max_send_lag)})"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
