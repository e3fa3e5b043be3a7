from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.metrics.assessment import no_baseline
from pytest_comfyload.protocol.timeline import NodeInterval
from pytest_comfyload.result.checks import Check, dominant_phase, explain, format_value, slowest
from pytest_comfyload.result.outcome import OutcomeStatus
from tests.result.outcomes import failure, load_of, outcome


def check(value: float, op: str, bound: float, unit: str = "s") -> Check:
    return Check("generation_time.p95", value, unit, 60, op, bound, False)


@pytest.mark.parametrize(
    ("value", "op", "bound", "margin"),
    [
        (9.0, "<", 12.0, 25.0),
        (15.0, "<", 12.0, -25.0),
        (9.0, "<=", 12.0, 25.0),
        (5.0, ">", 4.0, 25.0),
        (3.0, ">=", 4.0, -25.0),
        (-5.0, "<", -4.0, 25.0),
        (100.0, "==", 100.0, None),
        (99.0, "!=", 100.0, None),
        (3.0, "<", 0.0, None),
        (math.inf, "<", 12.0, None),
    ],
)
def test_the_margin_is_positive_on_the_good_side(value: float, op: str, bound: float, margin: float | None) -> None:
    assert check(value, op, bound).margin == (None if margin is None else pytest.approx(margin))


@given(st.floats(-1e6, 1e6), st.sampled_from(["<", "<=", ">", ">="]), st.floats(-1e6, 1e6))
def test_the_margins_sign_agrees_with_the_comparison(value: float, op: str, bound: float) -> None:
    passed = {"<": value < bound, "<=": value <= bound, ">": value > bound, ">=": value >= bound}[op]
    margin = check(value, op, bound).margin
    if margin is not None and margin != 0:
        assert (margin > 0) == passed


@pytest.mark.parametrize(
    ("value", "op", "bound", "written"),
    [
        (9.0, "<", 12.0, "+25 %"),
        (39.0, ">", 4.0, "+875 %"),
        (110.0, ">", 4.0, "×28"),
        (-110.0, ">", 4.0, "-2850 %"),
        (144.0, "<", 12.0, "×12"),
        (100.0, "==", 100.0, ""),
    ],
)
def test_what_is_many_times_its_bound_is_written_as_such(value: float, op: str, bound: float, written: str) -> None:
    assert check(value, op, bound).written_margin == written


def test_the_claim() -> None:
    assert check(14.1, "<", 12).claim() == "generation_time.p95 14.1 s < 12 s (n=60)"
    assert check(math.inf, "<", 12).claim() == "generation_time.p95 ∞ < 12 s (n=60)"
    assert check(95.25, "==", 100, "%").claim() == "generation_time.p95 95.2 % == 100 % (n=60)"
    assert check(2, "==", 0, "").claim() == "generation_time.p95 2 == 0 (n=60)"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(0.0, "0 s"), (12.0, "12 s"), (0.01234, "0.0123 s"), (1234.5, "1234 s"), (99999.4, "99999 s")],
        *[(math.inf, "∞"), (-math.inf, "−∞"), (math.nan, "nan"), (-0.5, "-0.5 s")],
    ],
)
def test_values(value: float, text: str) -> None:
    assert format_value(value, "s") == text


def test_the_slowest_prompts_come_first() -> None:
    prompts = [outcome(generation=seconds) for seconds in (2.0, 9.0, 4.0, 7.0)]
    chosen = slowest([*prompts, failure(OutcomeStatus.TIMEOUT)])
    assert [made.generation_time for made in chosen] == [pytest.approx(9.0), pytest.approx(7.0), pytest.approx(4.0)]


def test_the_phase_that_holds_most() -> None:
    phase, seconds = dominant_phase(outcome(generation=2.0, queue=7.5))
    assert (phase, round(seconds, 6)) == ("queue_time", 7.5)
    assert dominant_phase(outcome(fetch=9.0))[0] == "fetch_time"


def test_a_failed_percentile_names_the_prompts_beyond_its_bound() -> None:
    sampling = (NodeInterval("3", "KSampler", 0.0, 27.0, ()), NodeInterval("8", "VAEDecode", 27.0, 30.0, ()))
    load = load_of(
        outcome(generation=2.0, queue=20.0, prompt_id="waited-long"),
        outcome(generation=30.0, prompt_id="slowest1-1", nodes=sampling),
        outcome(generation=13.0, user=1, iteration=2, prompt_id="abcdefgh-1"),
        *[failure(OutcomeStatus.OOM, error="KSampler (node 3): out of memory\nand a long tail")] * 2,
        failure(OutcomeStatus.TIMEOUT, error="given up"),
        failure(OutcomeStatus.LOST),
    )
    made = Check.of(load.generation_time.p95, "<", 12, passed=False)
    assert explain(made, load) == [
        "SLO violated: generation_time.p95 30 s < 12 s (n=3)",
        "  margin -150 %, 90 % interval 13–∞ s",
        "  30 s > 12 s; even the low end, 13 s, is over.",
        "  failed prompts: 1 timeout, 2 oom, 1 lost",
        "    KSampler (node 3): out of memory",
        "    given up",
        "  2 of 3 prompts over 12 s, each with its longest phase:",
        "    slowest1  user 0, iteration 0: 30.00 s, of it KSampler 27.00 s (90 %)",
        "    abcdefgh  user 1, iteration 2: 13.00 s",
    ]


def test_a_total_is_explained_by_its_phases_and_no_more_than_some() -> None:
    load = load_of(*[outcome(queue=20.0 + k, prompt_id=f"prompt-{k}") for k in range(5)], outcome())
    made = Check.of(load.total_time.p95, "<=", 12, passed=False)
    assert explain(made, load)[-5:] == [
        "  5 of 6 prompts over 12 s, each with its longest phase:",
        "    prompt-4  user 0, iteration 0: 26.60 s, of it queue_time 24.00 s (90 %)",
        "    prompt-3  user 0, iteration 0: 25.60 s, of it queue_time 23.00 s (90 %)",
        "    prompt-2  user 0, iteration 0: 24.60 s, of it queue_time 22.00 s (89 %)",
        "    and 2 more",
    ]


def test_a_part_of_a_run_is_explained_by_its_own_prompts() -> None:
    light = [outcome(generation=20.0, group="light", prompt_id=f"light---{k}") for k in range(2)]
    load = load_of(*light, outcome(generation=50.0, group="heavy"))
    part = load.by("group")["light"]
    lines = explain(Check.of(part.generation_time.p95, "<", 12, passed=False), load)
    assert lines[-3:] == [
        "  2 of 2 prompts over 12 s, each with its longest phase:",
        "    light---  user 0, iteration 0: 20.00 s",
        "    light---  user 0, iteration 0: 20.00 s",
    ]


def test_what_is_no_percentile_is_explained_by_the_slowest_prompts() -> None:
    load = load_of(outcome(queue=9.0, prompt_id="waited-long"), outcome(generation=30.0, prompt_id="slowest1-1"))
    assert explain(Check.of(load.generation_time.mean, "<", 12, passed=False), load) == [
        "SLO violated: generation_time.mean 16 s < 12 s (n=2)",
        "  margin -33 %",
        "  16 s > 12 s; the interval of 2 samples has no low end.",
        "  slowest of 2 prompts, each with its longest phase:",
        "    slowest1  user 0, iteration 0: 31.60 s, of it generation_time 30.00 s (95 %)",
        "    waited-l  user 0, iteration 0: 11.60 s, of it queue_time 9.00 s (78 %)",
    ]


def test_a_check_of_a_metric_has_its_judgement() -> None:
    load = load_of(*[outcome(generation=2.0)] * 15)
    made = Check.of(load.generation_time.p95, "<", 12, passed=True)
    assert (made.verdict, made.lower, made.upper, made.passed) == ("unsupported", 2.0, math.inf, True)
    assert made.sentence == "2 s < 12 s, but 15 prompts support P81 at most; P95 needs 59 without a miss."
    assert made.settled_by == "59 clean prompts"
    first = Check.of(load.generation_time.p95, "<", math.nan, passed=True, judgement=no_baseline("no run before"))
    assert (first.verdict, first.sentence, first.margin) == (
        "no baseline",
        "Not compared with a baseline: no run before.",
        None,
    )
    assert first.claim() == "generation_time.p95 2 s < the baseline (n=15)"


def test_checks_survive_the_way_through_json() -> None:
    load = load_of(*[outcome(generation=2.0)] * 15)
    facts = Check.of(load.oom_errors, "==", 0, passed=True)
    for made in (facts, Check.of(load.generation_time.p50, "<", 12, passed=True)):
        assert msgspec.json.decode(msgspec.json.encode(made), type=Check) == made
    first = Check.of(load.generation_time.p50, "<", math.nan, passed=True, judgement=no_baseline("no run before"))
    back = msgspec.msgpack.decode(msgspec.msgpack.encode(first), type=Check)
    assert (back.verdict, math.isnan(back.bound)) == ("no baseline", True)


def test_a_run_of_failures_has_no_slowest() -> None:
    load = load_of(*[failure(OutcomeStatus.HTTP_ERROR, error=f"fault {number}\n") for number in range(5)])
    assert explain(check(math.inf, "<", 12), load) == [
        "SLO violated: generation_time.p95 ∞ < 12 s (n=60)",
        "  failed prompts: 5 http_error",
        "    fault 0",
        "    fault 1",
        "    fault 2",
    ]
