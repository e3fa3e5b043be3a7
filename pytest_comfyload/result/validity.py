"""Whether a run is a valid measurement: cached work, impossible timestamps, and delays that the generator added.

What must run is known for each prompt when it is sent: the nodes with new input (`workflow/must_run.py`). The reason
for an invalid run names classes, numbers of prompts, and what to do about it; a few cached prompts are only left out of
the times, and counted.
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

# Share of the successful prompts; with more of them, the queue was not the one that the load should have caused.
MOST_CACHED = 0.05


def cache_fault(measured: Sequence[Outcome]) -> str | None:
    """Return why the measured prompts say nothing about generating; None if they do."""
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
        f"{share} came entirely from the server's cache, so nothing was generated; vary a seed or an input, require "
        "the work with must_run=[…], or pass allow_cached=True"
    )


def measurements(outcomes: Iterable[Outcome], *, allow_cached: bool) -> list[Outcome]:
    """Select the outcomes whose times count; failures do, regardless of what was cached."""
    if allow_cached:
        return list(outcomes)
    # Only few prompts are cached, so the condition that is rarely true comes first.
    return [
        outcome
        for outcome in outcomes
        if not (outcome.reused or outcome.cache_class is CacheClass.FULLY) or not outcome.succeeded
    ]


def must_run_fault(measured: Sequence[Outcome], must_run: Sequence[str]) -> str | None:
    """Return which class in `must_run` did not run in a prompt; None if all did."""
    good = _good(measured)
    for class_type in must_run:
        if idle := sum(1 for outcome in good if _did_without(outcome, class_type)):
            return (
                f"must_run: {class_type} did not run in {_share(idle, len(good))} successful prompts, where it was "
                f"cached or leads to no output; give it more values to draw: inputs={{'{class_type}.…': [..., ...]}}"
            )
    return None


def cached_in(done: Mapping[Work, int]) -> Mapping[str, int]:
    """Count the successful prompts in which a class came from the cache and none of its nodes ran, by class.

    The most frequent class comes first.
    """
    counts: Counter[str] = Counter()
    for work, prompts in done.items():
        counts.update(dict.fromkeys((name for name in work.cached if name not in work.classes), prompts))
    return dict(counts.most_common())


def always_ran(done: Iterable[Work]) -> tuple[str, ...]:
    """Return the classes that ran in every successful prompt, in the order of their first run."""
    classes = [work.classes for work in done]
    return tuple(name for name in dict.fromkeys(classes[0] if classes else ()) if all(name in each for each in classes))


def _good(outcomes: Iterable[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.status is OutcomeStatus.SUCCESS]


def _did_without(outcome: Outcome, class_type: str) -> bool:
    # If the end of a prompt was read from the history, its nodes are unknown.
    return class_type in outcome.cached or (bool(outcome.nodes) and class_type not in outcome.ran)


def _share(part: int, whole: int) -> str:
    return f"all {whole}" if part == whole else f"{part} of {whole}"


# The share of the successful prompts that may lack phases.
MOST_VOID = 0.05
# The limit for what the generator adds to the median prompt: a share of `max_send_lag` or of the median total time.
OF_LAG, OF_TOTAL, OF_SIMULATED_TOTAL = 0.05, 0.05, 0.2
MOST_FAST = 20.0


def stamps_fault(measured: Iterable[Outcome]) -> str | None:
    """Return the fault of a run in which too many successful prompts have impossible timestamps; None otherwise."""
    good = _good(measured)
    void = sum([outcome.void for outcome in good])
    if void <= MOST_VOID * len(good):
        return None
    return (
        f"the server's time stamps cannot be right in {void} of {len(good)} successful prompts: their phases are void, "
        "and only send_lag, fetch_time and total_time are known"
    )


def generator_fault(facts: RunFacts, measured: Columns) -> str | None:
    """Return the fault of a run whose times the generator may have changed by more than is allowed; None otherwise."""
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
    """Yield notes on clocks and the generator; the measured window begins at `begin` on the run's clock."""
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
