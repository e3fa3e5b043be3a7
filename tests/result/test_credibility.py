"""When times cannot be trusted: late, saturated and stalled generators; impossible time stamps."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_comfyload.protocol.server_clock import ClockStep
from pytest_comfyload.result.columns import Columns
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.run_facts import GeneratorFacts, Stall
from pytest_comfyload.result.validity import credibility_notes, generator_fault, stamps_fault
from tests.result.outcomes import load_of, outcome


def quick(added: float | None, **fields: Any) -> Outcome:
    """Return a prompt with a total time of 25 ms."""
    times: dict[str, Any] = {"submit": 0.001, "queue": 0.001, "generation": 0.02, "delivery": 0.001, "fetch": 0.002}
    return outcome(**times, generator_lag=added, **fields)


def slow(added: float | None) -> Outcome:
    """Return a prompt with a total time of 12 s."""
    return outcome(generation=10.4, generator_lag=added)


def load(*outcomes: Outcome, **facts: Any) -> LoadResult:
    return load_of(*outcomes, worst_loop_lag=0.25, **facts)


def test_a_saturated_generator_is_named_with_its_lag_and_the_way_out() -> None:
    because = load(*[quick(0.0064)] * 10).invalid_because
    assert because == (
        "the generator was saturated: it may have added 6.4 ms to the median total_time of 25 ms, more than 5 ms "
        "(event loop lag p99 1 ms, worst 250 ms); use fewer users or a faster machine for it, or raise max_send_lag "
        "(100 ms)"
    )


@pytest.mark.parametrize(
    ("added", "facts", "state"),
    [
        (0.0049, {}, "valid"),
        (0.0051, {}, "invalid"),
        (0.0051, {"max_send_lag": 0.2}, "valid"),  # only lag above a twentieth of it counts
        (0.0051, {"max_send_lag": 0.01}, "invalid"),
        (0.09, {"time_scale": 20.0}, "valid"),  # in wall time, of which the simulated 25 ms take 1.25 ms
        (0.11, {"time_scale": 20.0}, "invalid"),
        (0.09, {"time_scale": 1000.0}, "valid"),
        (0.11, {"time_scale": 1000.0}, "invalid"),
        (0.009, {"time_scale": 2.0}, "valid"),
        (0.011, {"time_scale": 2.0}, "invalid"),
        (0.0051, {"time_scale": 1.0}, "invalid"),  # a simulator in real time is judged like a real server
        (None, {}, "valid"),  # runs stored before it was measured
    ],
)
def test_the_median_of_short_prompts(added: float | None, facts: dict[str, Any], state: str) -> None:
    assert load(*[quick(added)] * 20, **facts).state == state


def test_the_same_lag_hardly_matters_for_long_prompts() -> None:
    assert load(*[slow(0.5)] * 20).state == "valid"
    assert load(*[slow(0.61)] * 20).state == "invalid"


def test_a_generator_that_stood_still_spoils_more_than_one_prompt_in_a_hundred() -> None:
    stopped = load(*[quick(0.001)] * 98, quick(5.0), quick(5.0))
    assert (stopped.invalid_because or "").startswith("the generator stalled: it may have added 5 s (p99) to total")
    assert load(*[quick(0.001)] * 99, quick(5.0)).state == "valid"
    assert load(*[quick(0.001)] * 98, quick(0.09), quick(0.09)).state == "valid"
    assert load(*[slow(0.01)] * 9, slow(0.55)).state == "valid"
    assert load(*[quick(0.001)] * 9, quick(1.9), time_scale=20.0).state == "valid"
    assert load(*[quick(0.001)] * 9, quick(2.1), time_scale=20.0).state == "invalid"


def test_a_stop_while_the_server_works_changes_no_total_time() -> None:
    run = load(*[quick(0.001, stalled=True)] * 10)
    assert (run.state, run.stalled, run.to_dict()["stalled"]) == ("valid", 10, 10)


def test_failures_are_not_judged_by_what_they_took() -> None:
    assert generator_fault(load().facts, Columns([])) is None


def test_void_stamps_are_counted_and_make_a_run_invalid_in_number() -> None:
    assert stamps_fault([outcome()] * 19 + [outcome().voided()]) is None
    run = load(*[outcome()] * 18, *[outcome().voided()] * 2)
    assert run.state == "invalid"
    assert run.invalid_because == (
        "the server's time stamps cannot be right in 2 of 20 successful prompts: their phases are void, and only "
        "send_lag, fetch_time and total_time are known"
    )
    assert (run.void, run.to_dict()["void"]) == (2, 2)


def test_of_void_prompts_the_clients_own_times_are_left() -> None:
    run = load(outcome(), outcome().voided())
    assert [times.n for times in (run.queue_time, run.generation_time, run.submit_time, run.delivery_time)] == [1] * 4
    assert [times.n for times in (run.total_time, run.fetch_time, run.send_lag)] == [2] * 3
    assert run.total_time.max == pytest.approx(3.6)


def test_what_is_told_of_clocks_and_stalls() -> None:
    steps = {"http://a": [ClockStep(11.0, 12.0, 5.0)], "http://b": [ClockStep(1.0, 2.0, -1.0)] * 7}
    stalls = [Stall(12.0, 12.5, 0.5), Stall(20.0, 25.0, 5.0)]
    told = credibility_notes(steps, stalls, 10.0, [outcome(stalled=True), outcome(), outcome().voided()])
    assert list(told) == [
        "http://a: its clock was set forward by at least 5 s, 2.0 s into the load",
        "http://b: its time stamps contradict each other 7 times; they come from several clocks, or from none",
        "the server's time stamps of 1 prompt cannot be right: their phases are void",
        "the generator stalled 2 times, for up to 5.0 s (10.0 s into the load): 1 prompt under way",
    ]
    assert list(credibility_notes({}, (), 0.0, [outcome()])) == []


# --- several generators ---


def test_each_generator_is_judged_by_its_own_lag() -> None:
    """One late prompt of 200 is half a percent, which the p99 of all prompts does not show."""
    quick_one = GeneratorFacts("generator 1 of 2 (popen)", 199, 199, 0.01, 0.001)
    late = GeneratorFacts("generator 2 of 2 (ssh=gen1)", 1, 1, 0.25, 0.001)
    run = load(*[quick(0.001)] * 200, generators=(quick_one, late))
    assert run.state == "invalid"
    assert str(run.invalid_because).startswith(
        "generator 2 of 2 (ssh=gen1) was late (send_lag p99 250 > 100 ms); use fewer users"
    )
    assert load(*[quick(0.001)] * 200, generators=(quick_one,)).state == "valid"


def test_a_run_without_some_of_its_prompts_is_incomplete_before_all_else() -> None:
    run = load(quick(0.001), incomplete="generator 2 of 2 (popen) was lost", invalid="the generator was late")
    assert (run.state, run.invalid_because) == ("incomplete", "generator 2 of 2 (popen) was lost")
