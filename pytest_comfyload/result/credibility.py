"""Whether the times of a run can be believed: the server's stamps, and the generator that took all others.

The generator makes a run invalid where it may have changed what the run says of the server:
- a prompt was sent later than intended by more than `max_send_lag` (p99);
- the median of what it may have added to a prompt's total time is over a twentieth of `max_send_lag` (5 ms by default)
  and over 5 % of the median total time;
- the 99th percentile of it is over `max_send_lag` and over 5 % of the median total time.

All are wall times. On a simulator that runs N times faster than real time, a wall second counts N times, and its
figures judge no real server: there the last two limits are N times as large (20 at most), or 20 % of the median.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from pytest_comfyload.metrics.replay import percentile
from pytest_comfyload.protocol.server_clock import ClockStep
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.run_facts import RunFacts, Stall

__all__ = ["credibility_notes", "generator_fault", "stamps_fault"]

# The part of the successful prompts that may be without phases.
MOST_VOID = 0.05
# What the generator may add to the median prompt: a part of `max_send_lag`, or of the median total time.
OF_LAG, OF_TOTAL, OF_SIMULATED_TOTAL = 0.05, 0.05, 0.2
MOST_FAST = 20.0


def stamps_fault(measured: Iterable[Outcome]) -> str | None:
    """Too many successful prompts have stamps that cannot be right."""
    good = [outcome for outcome in measured if outcome.succeeded]
    void = sum(1 for outcome in good if outcome.void)
    if void <= MOST_VOID * len(good):
        return None
    return (
        f"the server's time stamps cannot be right in {void} of {len(good)} successful prompts: their phases are void, "
        "and only send_lag, fetch_time and total_time are known"
    )


def generator_fault(facts: RunFacts, measured: Iterable[Outcome]) -> str | None:
    """The generator may have changed the times of this run by more than is allowed."""
    outcomes = list(measured)
    send_lags = [outcome.send_lag for outcome in outcomes if outcome.send_lag is not None]
    limit = facts.max_send_lag
    if send_lags and (late := percentile(send_lags, 99)) > limit:
        return f"the generator was late (send_lag p99 {late * 1000:.0f} > {limit * 1000:.0f} ms); {_way_out(facts)}"
    added = [outcome.generator_lag for outcome in outcomes if outcome.succeeded and outcome.generator_lag is not None]
    return _saturated(facts, outcomes, added) if added else None


def _saturated(facts: RunFacts, outcomes: Sequence[Outcome], added: Sequence[float]) -> str | None:
    scale = facts.time_scale or 1.0
    times = [outcome.total_time for outcome in outcomes if outcome.succeeded and outcome.total_time is not None]
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
            f"the generator stood still: it may have added {_ms(worst)} (p99) to total_time, more than {_ms(limit)} "
            f"({lags}); {_way_out(facts)}"
        )
    return None


def credibility_notes(
    steps: Mapping[str, Sequence[ClockStep]], stalls: Sequence[Stall], begin: float, outcomes: Sequence[Outcome]
) -> Iterator[str]:
    """What a reader must know of clocks and generator; `begin`: of the measured window, on the run's clock."""
    void = sum(1 for outcome in outcomes if outcome.void)
    for server, found in steps.items():
        yield f"{server}: {_clock(found, begin)}"
    if void:
        yield f"the server's time stamps of {_prompts(void)} cannot be right: their phases are void"
    if stalls:
        longest = max(stalls, key=lambda stall: stall.length)
        yield (
            f"the generator stood still {_times(len(stalls))}, for up to {longest.length:.1f} s "
            f"({max(0.0, longest.at - begin):.1f} s into the load): "
            f"{_prompts(sum(1 for outcome in outcomes if outcome.stalled))} under way"
        )


def _clock(steps: Sequence[ClockStep], begin: float) -> str:
    if len(steps) > 1:
        return f"its time stamps contradict each other {len(steps)} times; they are of several clocks, or of none"
    (step,) = steps
    way = "forward" if step.shift > 0 else "back"
    by, at = abs(step.shift), max(0.0, step.end - begin)
    return f"its clock was set {way} by at least {by:.2g} s, {at:.1f} s into the load"


def _prompts(count: int) -> str:
    return f"{count} prompt" if count == 1 else f"{count} prompts"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _way_out(facts: RunFacts) -> str:
    return f"use fewer users or a faster machine for it, or raise max_send_lag ({_ms(facts.max_send_lag)})"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
