"""Every verdict is one sentence: the wording of each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.metrics.assessment import COMPARE, judge
from pytest_comfyload.metrics.distribution import Distribution
from pytest_comfyload.metrics.intervals import Interval
from pytest_comfyload.metrics.metric import Count, Metric
from pytest_comfyload.result.outcome import OutcomeStatus
from tests.result.outcomes import failure, load_of, outcome


def p95(values: Sequence[float], failed: int = 0) -> Metric:
    return Distribution("generation_time", values, failed).p95


def said(metric: Metric | Count, op: str, bound: float) -> tuple[str, str]:
    judgement = judge(metric, op, bound)
    return judgement.verdict, judgement.sentence


def succeeded(good: int, bad: int) -> Metric:
    return load_of(*[outcome()] * good, *[failure(OutcomeStatus.OOM)] * bad).success_rate


@pytest.mark.parametrize(
    ("metric", "bound", "verdict", "sentence"),
    [
        (
            p95([9.8] * 99 + [13]),
            *(12, "pass"),
            "9.8 s < 12 s: 1 of 100 over; at least 95 % are under 12 s (95 % confidence).",
        ),
        (
            p95([9.8] * 59),
            *(12, "pass"),
            "9.8 s < 12 s: none of 59 over; at least 95 % are under 12 s (95 % confidence).",
        ),
        (
            p95([9.8] * 15),
            *(12, "unsupported"),
            "9.8 s < 12 s, but 15 prompts support P81 at most; P95 needs 59 without a miss.",
        ),
        (
            p95([9.8] * 29 + [13]),
            *(12, "unsupported"),
            "9.8 s < 12 s, but 30 prompts, 1 of them over, support P85 at most; P95 needs 59 without a miss.",
        ),
        (p95([9.8]), 12, "unsupported", "9.8 s < 12 s, but 1 prompt supports P5 at most; P95 needs 59 without a miss."),
        (p95([12.6] * 55 + [14.1] * 5), 12, "fail", "14.1 s > 12 s; even the low end, 12.6 s, is over."),
        (p95([11.1] * 56 + [14.1] * 4), 12, "fail", "14.1 s > 12 s, though the low end, 11.1 s, is not."),
        (p95([14.1]), 12, "fail", "14.1 s > 12 s; the interval of 1 samples has no low end."),
        (
            p95([11.8] * 56, failed=4),
            *(12, "fail"),
            "∞ > 12 s, for 4 of 60 failed, though the low end, 11.8 s, is not.",
        ),
        (p95([12] * 60), 12, "fail", "12 s = 12 s; even the low end, 12 s, is over."),
        (
            p95([11.8] * 59 + [13]),
            *(12, "inconclusive"),
            "11.8 s < 12 s, but 1 of 60 was over; about 150 prompts would settle it.",
        ),
        (
            p95([11.8] * 76 + [13] * 4),
            *(12, "inconclusive"),
            "11.8 s < 12 s, but 4 of 80 were over; more prompts will not settle this.",
        ),
    ],
)
def test_percentiles(metric: Metric, bound: float, verdict: str, sentence: str) -> None:
    assert said(metric, "<", bound) == (verdict, sentence)


def test_a_percentile_bounded_from_below() -> None:
    slow = Distribution("x", [3.0] * 60)
    assert said(slow.percentile(5), ">", 2) == (
        "pass",
        "3 s > 2 s: none of 60 under; at least 95 % are over 2 s (95 % confidence).",
    )
    assert said(Distribution("x", [3.0] * 15).percentile(5), ">", 2)[1] == (
        "3 s > 2 s, but 15 prompts support P19 at most; P5 needs 59 without a miss."
    )


@pytest.mark.parametrize(
    ("good", "bad", "op", "bound", "verdict", "sentence"),
    [
        (15, 0, "==", 100, "pass", "15 of 15 succeeded; up to 18 % failing cannot be excluded."),
        (15, 0, ">=", 100, "pass", "15 of 15 succeeded; up to 18 % failing cannot be excluded."),
        (300, 0, "==", 100, "pass", "300 of 300 succeeded; up to 0.99 % failing cannot be excluded."),
        (2, 0, "==", 100, "pass", "2 of 2 succeeded; up to 78 % failing cannot be excluded."),
        (14, 1, "==", 100, "fail", "14 of 15 succeeded: 93.3 % < 100 %."),
        (59, 0, ">=", 95, "pass", "59 of 59 succeeded; at least 95 % do (95 % confidence)."),
        (
            *(15, 0, ">", 95, "unsupported"),
            "15 of 15 succeeded, but that many support 81 % at most; 95 % needs 59 without a miss.",
        ),
        (
            *(59, 1, ">", 95, "inconclusive"),
            "59 of 60 succeeded, but up to 7.7 % failing cannot be excluded; about 150 prompts would settle it.",
        ),
        (40, 20, ">", 95, "fail", "40 of 60 succeeded: 66.7 % < 95 %; even the high end, 76.7 %, is under."),
        (55, 5, ">", 95, "fail", "55 of 60 succeeded: 91.7 % < 95 %, though the high end, 96.7 %, is not."),
        (0, 60, "<", 5, "pass", "0 of 60 succeeded; at most 5 % do (95 % confidence)."),
    ],
)
def test_rates(good: int, bad: int, op: str, bound: float, verdict: str, sentence: str) -> None:
    assert said(succeeded(good, bad), op, bound) == (verdict, sentence)


def test_means() -> None:
    values = [float(value) for value in range(1, 31)]
    mean = Distribution("generation_time", values).mean
    assert said(mean, "<", 20) == ("pass", "15.5 s < 20 s; even the high end, 18.2 s, is under.")
    assert said(mean, ">", 13) == (
        "inconclusive",
        "15.5 s > 13 s, but the low end, 12.8 s, is under; about 36 prompts would settle it.",
    )
    assert said(mean, "<", 15.51)[1].endswith("the high end, 18.2 s, is over; more prompts will not settle this.")
    assert said(mean, "<", 10) == ("fail", "15.5 s > 10 s; even the low end, 12.8 s, is over.")
    few = Distribution("generation_time", values[:20]).mean
    assert said(few, "<", 20) == ("unsupported", "10.5 s < 20 s, but a mean needs 30 prompts; there are 20.")


def test_facts() -> None:
    assert said(Count(0, "oom_errors", 15), "==", 0) == ("pass", "0 = 0, as measured.")
    assert said(Count(2, "oom_errors", 15), "<=", 1) == ("fail", "2 > 1, as measured.")
    greatest = Distribution("x", [1.0, 9.0])
    assert said(greatest.max, "<", 10) == ("pass", "9 s < 10 s, as measured.")
    assert said(greatest.percentile(100), "<", 10) == ("pass", "9 s < 10 s, as measured.")
    assert said(p95([9.8] * 15), "!=", 9.8) == ("fail", "9.8 s = 9.8 s, as measured.")


def test_throughput_of_an_open_load_is_its_schedules() -> None:
    load = load_of(*[outcome(at=2.0 * k, generation=0.5, queue=0.0) for k in range(30)], open_load=True)
    assert said(load.throughput, ">", 20) == (
        "pass",
        "30 images/min > 20 images/min; below saturation an open load measures its schedule, not the server.",
    )
    assert load.throughput.interval is None


def test_throughput_of_users_goes_by_the_generation_times() -> None:
    load = load_of(*[outcome(at=2.0 * k, generation=1.8 + 0.4 * (k % 2), queue=0.0, fetch=0.0) for k in range(30)])
    lower, upper = load.throughput.interval or (0.0, 0.0)
    assert lower < float(load.throughput) < upper
    assert (upper - lower) / float(load.throughput) == pytest.approx(2 * 1.699 * 0.2034 / math.sqrt(30) / 2, rel=0.01)


def test_a_judgement_carries_plain_floats() -> None:
    judgement = judge(p95([9.8] * 59 + [13]), "<", 12)
    assert (judgement.lower, judgement.upper, judgement.settled_by) == (9.8, 13, "about 150 prompts")
    assert type(judgement.lower) is float or type(judgement.lower) is int
    assert judge(p95([9.8] * 15), "<", 12).upper == math.inf
    assert judge(Count(0, "c", 5), "==", 0).lower is None


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=120),
    st.integers(0, 5),
    st.sampled_from(["<", "<=", ">", ">="]),
    st.floats(0, 100),
    st.sampled_from([5, 50, 90, 95]),
)
def test_interval_and_verdict_agree(values: list[float], failed: int, op: str, bound: float, q: float) -> None:
    metric = Distribution("x", values, failed).percentile(q)
    judgement = judge(metric, op, bound)
    assert (judgement.verdict == "fail") == (not COMPARE[op](float(metric), bound))
    far = judgement.upper if op in ("<", "<=") else judgement.lower
    assert far is not None
    if judgement.verdict == "pass":
        assert COMPARE[op](far, bound)
    elif judgement.verdict != "fail":
        assert not COMPARE[op](far, bound)


def test_whoever_has_an_interval_gets_a_sentence() -> None:
    mean = Metric(88.0, "gpu.utilization.mean", "%", 10, Interval(84.0, 92.0))
    assert said(mean, "<=", 95) == ("pass", "88 % < 95 %; even the high end, 92 %, is under.")
    assert said(mean, "<=", 90) == ("inconclusive", "88 % < 90 %, but the high end, 92 %, is over.")
    assert said(mean, ">=", 95) == ("fail", "88 % < 95 %; even the high end, 92 %, is under.")
