from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_a_failed_check_explains_itself() -> None:
    load = load_of(
        outcome(generation=2.0, queue=20.0, user=1, iteration=2, prompt_id="abcdefgh-1"),
        outcome(generation=30.0, prompt_id="slowest1-1"),
        outcome(generation=5.0),
        outcome(generation=4.0, prompt_id="fastest1-1"),
        *[failure(OutcomeStatus.OOM, error="KSampler (node 3): out of memory\nand a long tail")] * 2,
        failure(OutcomeStatus.TIMEOUT, error="given up"),
        failure(OutcomeStatus.LOST),
    )
    assert explain(check(30.0, "<", 12), load) == [
        "SLO violated: generation_time.p95 30 s < 12 s (n=60)",
        "  margin -150 %",
        "  failed prompts: 1 timeout, 2 oom, 1 lost",
        "    KSampler (node 3): out of memory",
        "    given up",
        "  slowest of 8 prompts, and the phase that holds most of their time:",
        "    slowest1  user 0, iteration 0: 31.60 s, of it generation_time 30.00 s (95 %)",
        "    abcdefgh  user 1, iteration 2: 22.60 s, of it queue_time 20.00 s (88 %)",
        "    11111111  user 0, iteration 0: 6.60 s, of it generation_time 5.00 s (76 %)",
    ]


def test_a_run_of_failures_has_no_slowest() -> None:
    load = load_of(*[failure(OutcomeStatus.HTTP_ERROR, error=f"fault {number}\n") for number in range(5)])
    assert explain(check(math.inf, "<", 12), load) == [
        "SLO violated: generation_time.p95 ∞ < 12 s (n=60)",
        "  failed prompts: 5 http_error",
        "    fault 0",
        "    fault 1",
        "    fault 2",
    ]
