"""The rule of the regression gate, its verdicts and its sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.metrics.regression import Comparison, RegressionVerdict, SessionHistory, compare
from pytest_comfyload.metrics.session_noise import OwnNoise
from pytest_comfyload.metrics.spec import Scale

STEADY = [10.0, 10.1, 9.9, 10.05, 9.95, 10.0, 10.1, 9.9, 10.0, 10.0]
LIVELY = [OwnNoise(0.02, 6.0)] * 7


def against(
    before: Sequence[float],
    runs: Sequence[float],
    scale: Scale | None = None,
    *,
    accepted: int = 0,
    others: Sequence[OwnNoise] = (),
    within: OwnNoise | None = None,
    seeded: bool = False,
) -> Comparison:
    scale = scale or Scale()
    places = [scale.place(value) for value in before]
    return compare(SessionHistory(places, accepted, others, within, seeded), runs, scale)


def test_three_runs_beyond_the_limit_are_a_regression() -> None:
    comparison = against(STEADY, [11.2, 11.1, 11.3])
    assert comparison.verdict is RegressionVerdict.REGRESSED
    assert comparison.fails
    assert comparison.change == pytest.approx(12, abs=0.1)
    assert comparison.limit == pytest.approx(5)
    assert comparison.lower < comparison.change < comparison.upper


def test_one_run_beyond_the_limit_is_suspected_and_asks_for_two_more() -> None:
    comparison = against(STEADY, [11.2])
    assert (comparison.verdict, comparison.fails, comparison.rerun) == (RegressionVerdict.SUSPECTED, False, True)


def test_the_median_of_three_runs_passes_over_an_odd_one() -> None:
    assert against(STEADY, [30.0, 10.0, 10.1]).verdict is RegressionVerdict.UNCHANGED


def test_a_faster_run_is_an_improvement_and_fails_nothing() -> None:
    comparison = against(STEADY, [8.9, 8.8, 8.9])
    assert comparison.verdict is RegressionVerdict.IMPROVED
    assert not comparison.fails


def test_the_same_again_is_unchanged_and_ends_it() -> None:
    comparison = against(STEADY, [10.05])
    assert comparison.verdict is RegressionVerdict.UNCHANGED
    assert not comparison.rerun


def test_what_is_inconclusive_is_rerun_up_to_five_runs() -> None:
    for runs, again in ((1, True), (3, True), (5, False)):
        comparison = against(STEADY, [10.4] * runs)
        assert (comparison.verdict, comparison.rerun) == (RegressionVerdict.INCONCLUSIVE, again)


@pytest.mark.parametrize(("earlier", "verdict", "fails"), [(1, "regressed", False), (2, "regressed", True)])
def test_two_earlier_sessions_are_enough_to_fail(earlier: int, verdict: str, fails: bool) -> None:
    comparison = against(STEADY[:earlier], [20.0] * 3)
    assert (comparison.verdict, comparison.fails) == (verdict, fails)


def test_without_an_earlier_session_there_is_no_verdict() -> None:
    assert against([], [20.0] * 3).verdict is RegressionVerdict.RECORDING


def test_two_sessions_that_differ_by_more_than_the_limit_give_no_verdict() -> None:
    comparison = against([10.0, 15.0], [20.0] * 3)
    assert (comparison.verdict, comparison.rerun) == (RegressionVerdict.RECORDING, False)


def test_one_odd_session_is_not_the_noise() -> None:
    comparison = against([*STEADY, 32.5, *STEADY], [11.2] * 3)
    assert comparison.fails
    assert comparison.limit < 6


def test_noise_widens_the_limit() -> None:
    noisy = [8.0, 12.0, 9.0, 11.0, 10.0, 8.5, 11.5, 10.5, 9.5, 10.0]
    comparison = against(noisy, [11.2, 11.1, 11.3])
    assert comparison.limit > 20
    assert not comparison.fails


def test_a_step_of_the_last_session_is_not_the_heads() -> None:
    comparison = against([*STEADY, 14.3], [14.3] * 3)
    assert (comparison.verdict, comparison.young, comparison.level) == (RegressionVerdict.UNCHANGED, True, 1)
    assert comparison.step is not None
    assert math.expm1(comparison.step.jump) == pytest.approx(0.43, abs=0.01)


def test_a_lone_odd_session_is_not_a_level() -> None:
    assert against([*STEADY, 14.3], [10.0]).verdict is RegressionVerdict.UNCHANGED
    assert against([*STEADY, 14.3], [12.0] * 3).verdict is RegressionVerdict.REGRESSED


@pytest.mark.parametrize("since", range(3, 10))
def test_a_step_of_three_sessions_ago_begins_a_level(since: int) -> None:
    comparison = against([*STEADY, *STEADY[:10], *[1.43 * each for each in STEADY[:since]]], [14.3 * 1.2] * 3)
    assert comparison.fails
    assert comparison.change == pytest.approx(20, abs=1.5)
    assert comparison.step is not None
    assert comparison.step.jump == pytest.approx(math.log(1.43), abs=0.015)


def test_sessions_before_an_accepted_change_teach_the_noise_only() -> None:
    slower = [1.43 * each for each in STEADY[:2]]
    comparison = against([*STEADY, *slower], [14.3], accepted=10)
    assert (comparison.verdict, comparison.baseline, comparison.step) == (RegressionVerdict.UNCHANGED, 2, None)
    assert comparison.limit < against(slower, [14.3]).limit


def test_noise_is_borrowed_while_there_is_little_of_its_own() -> None:
    alone, among = against(STEADY[:3], [10.0]), against(STEADY[:3], [10.0], others=[OwnNoise(0.01, 6.0)] * 7)
    assert among.borrowed == 7
    assert among.limit < alone.limit


def test_few_prompts_bound_the_noise_from_below() -> None:
    comparison = against(STEADY, [10.0], within=OwnNoise(0.056, 40.0))
    assert comparison.noise == pytest.approx(100 * math.expm1(0.056))
    assert not against(STEADY, [11.2] * 3, within=OwnNoise(0.056, 40.0)).fails


def test_runs_of_one_session_hide_what_sessions_differ_by() -> None:
    runs = STEADY[:5]
    assert against(runs, [10.0], seeded=True).limit > 1.5 * against(runs, [10.0]).limit
    assert against(runs, [12.0] * 3, seeded=True).fails


def test_only_the_newest_twenty_count() -> None:
    comparison = against([5.0] * 30 + STEADY * 2, [10.0])
    assert (comparison.verdict, comparison.baseline) == (RegressionVerdict.UNCHANGED, 20)


def test_no_run_is_missing() -> None:
    assert against(STEADY, []).verdict is RegressionVerdict.MISSING


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_a_value_that_has_no_ratio_is_inconclusive(value: float) -> None:
    comparison = against(STEADY, [value])
    assert (comparison.verdict, comparison.rerun) == (RegressionVerdict.INCONCLUSIVE, False)


def test_what_can_be_zero_is_compared_by_difference() -> None:
    waits = Scale(floor=0.1)
    comparison = against([0.0] * 10, [0.0], waits)
    assert (comparison.verdict, comparison.change, comparison.limit) == (RegressionVerdict.UNCHANGED, 0, 0.1)
    assert against([0.0] * 10, [0.3, 0.3, 0.3], waits).fails
    assert against([0.0] * 10, [0.02], waits).verdict is RegressionVerdict.UNCHANGED


def test_where_more_is_better_less_is_a_regression_and_shown_as_less() -> None:
    comparison = against(STEADY, [8.0, 8.0, 8.0], Scale(higher_is_better=True))
    assert comparison.verdict is RegressionVerdict.REGRESSED
    assert comparison.change == pytest.approx(-20)
    assert comparison.lower < -20 < comparison.upper


@given(st.lists(st.floats(1, 100), min_size=1, max_size=30), st.lists(st.floats(1, 100), min_size=1, max_size=5))
def test_the_unit_does_not_matter(baseline: list[float], runs: list[float]) -> None:
    seconds = against(baseline, runs)
    milliseconds = against([1024 * each for each in baseline], [1024 * each for each in runs])
    assert milliseconds.change == pytest.approx(seconds.change, abs=1e-6)
    assert milliseconds.limit == pytest.approx(seconds.limit, abs=1e-6)


@given(st.lists(st.floats(1e-3, 1e6), max_size=25), st.lists(st.floats(1e-3, 1e6), max_size=5), st.integers(0, 25))
def test_whatever_was_measured_there_is_a_verdict(before: list[float], runs: list[float], accepted: int) -> None:
    comparison = against(before, runs, accepted=min(accepted, len(before)))
    assert comparison.sentence()
    assert not comparison.fails or (comparison.runs >= 3 and comparison.baseline >= 2)
    assert comparison.level <= comparison.baseline


def test_sentences() -> None:
    noisy = [each * (1.02 if index % 2 else 0.98) for index, each in enumerate(STEADY)] * 2
    assert against(STEADY, [11.2] * 3).sentence("RTX 4090") == (
        "+12 % (3 runs); limit 5 %, the least change that counts. Level: 10 sessions on RTX 4090; noise 1.2 %."
    )
    assert against(noisy, [12.2] * 3).sentence() == (
        "+22 % (3 runs); limit 10.6 %: a clean commit stays below it 998 times in 1,000. "
        "Level: 10 sessions; noise 3.2 %."
    )
    assert against(STEADY[:2], [12.4] * 3, others=LIVELY).sentence() == (
        "+23.4 % (3 runs); limit 7.9 %: wide, with 2 baseline sessions. "
        "Level: 2 sessions; noise 2 %, taken from 7 other scenarios too."
    )
    assert against(STEADY, [11.2]).sentence() == "+12 % in one run, beyond the limit of 5 %; two more decide."
    assert against(STEADY, [10.09]).sentence() == "+0.9 %; a slowdown of 5 % would have been seen."
    assert against(STEADY, [10.41]).sentence() == "+4.1 % (+1.7 to +6.6); limit 5 %."
    assert against([], [10.0]).sentence() == (
        "No earlier session to compare with; to compare now, run both interleaved: run_ab."
    )
    assert against(STEADY, []).sentence() == "No run; there are 10 baseline sessions."
    assert against(STEADY, [math.inf]).sentence() == "Not compared: a run has no value that can be compared."
    assert against([10.0, 15.0], [10.0]).sentence() == (
        "The 2 baseline sessions differ by more than the limit of 19.2 %; one more decides."
    )
    assert against([0.0] * 10, [0.3] * 3, Scale(floor=0.1)).sentence() == (
        "+0.3 s (3 runs); limit 0.1 s, the least change that counts. Level: 10 sessions; noise 0.02 s."
    )
