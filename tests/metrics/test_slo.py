"""The text of an SLO has exactly one meaning, or is refused with the legal form."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.load_plan import Times
from pytest_comfyload.metrics.slo import Condition, Slo

TIMES = Times(queue_time=[0, 1, 2, 3], generation_time=[1, 1, 1, 5], total_time=[1, 2, 3, math.inf])


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("total_time.p95 < 60", Condition("total_time", 95, 60)),
        ("  queue_time.mean<=2.5 ", Condition("queue_time", None, 2.5, inclusive=True)),
        ("generation_time.p99.9 < 1m30s", Condition("generation_time", 99.9, 90)),
        ("total_time.p50 < 500ms", Condition("total_time", 50, 0.5)),
    ],
)
def test_one_condition(text: str, condition: Condition) -> None:
    assert Slo.parse(text) == Slo((condition,))


@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.0, math.inf]), max_size=12),
    st.sampled_from(["p5", "p50", "p95", "p99.9", "p100", "mean"]),
    st.sampled_from(["<", "<="]),
    st.sampled_from(["0.5", "1", "2"]),
)
def test_what_holds_without_sorting_is_what_the_statistic_meets(values: list[float], q: str, op: str, to: str) -> None:
    [condition] = Slo.parse(f"total_time.{q} {op} {to}").conditions
    times = Times(values, values, values)
    assert condition.held_by(values) == condition.met_by(condition.statistic(times))


def test_several_conditions_hold_together() -> None:
    slo = Slo.parse("queue_time.p50 < 2 and total_time.p75 <= 3")
    assert str(slo) == "queue_time.p50 < 2 and total_time.p75 <= 3"
    assert slo.missed(TIMES) is None
    assert Slo.parse("queue_time.p50 < 2 and total_time.p95 < 60").missed(TIMES) == Condition("total_time", 95, 60)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("queue_time.p100 < 3", False),
        ("queue_time.p100 <= 3", True),
        ("generation_time.mean < 2.1", True),
        ("total_time.mean < 2.1", True),  # over successful prompts
        ("total_time.p75 < 3.5", True),
        ("total_time.p76 < 1000", False),  # the time of a failed prompt is infinite
    ],
)
def test_a_condition_on_replayed_times(text: str, holds: bool) -> None:
    assert (Slo.parse(text).missed(TIMES) is None) is holds


def test_what_grows_with_the_load() -> None:
    assert not Slo.parse("generation_time.p95 < 5").grows_with_load
    assert Slo.parse("generation_time.p95 < 5 and queue_time.mean < 5").grows_with_load


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "cannot be parsed"),
        (None, "cannot be parsed"),
        ("total_time < 60", "'total_time < 60' cannot be parsed"),
        ("total_time.p95 > 60", "cannot be parsed"),
        ("total_time.p95 < 60, queue_time.p95 < 5", "cannot be parsed"),
        ("total_time.p95 < 60 and", "'60 and' is not a bound"),
        ("total_tim.p95 < 60", "no metric 'total_tim'; legal: total_time, queue_time, generation_time"),
        ("total_time.p0 < 60", "not a percentile"),
        ("total_time.p101 < 60", "not a percentile"),
        ("total_time.p95 < soon", "'soon' is not a bound"),
        ("total_time.p95 < 0", "cannot be met"),
    ],
)
def test_what_is_no_slo_is_refused_with_the_legal_form(text: object, why: str) -> None:
    with pytest.raises(UsageError, match=why) as refusal:
        Slo.parse(text)
    assert "such as 'total_time.p95 < 60'" in str(refusal.value)
