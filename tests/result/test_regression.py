"""The rule of run-against-runs, its verdicts, and its error rates by simulation."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.result.regression import Comparison, Scale, Verdict, compare

STEADY = [10.0, 10.1, 9.9, 10.05, 9.95, 10.0, 10.1, 9.9, 10.0, 10.0]


def test_three_runs_beyond_the_limit_are_a_regression() -> None:
    comparison = compare(STEADY, [11.2, 11.1, 11.3])
    assert comparison.verdict is Verdict.REGRESSED
    assert comparison.fails
    assert comparison.change == pytest.approx(12, abs=0.1)
    assert comparison.limit == pytest.approx(5)
    assert comparison.lower < comparison.change < comparison.upper


def test_a_faster_run_is_an_improvement_and_fails_nothing() -> None:
    comparison = compare(STEADY, [8.9, 8.8, 8.9])
    assert comparison.verdict is Verdict.IMPROVED
    assert not comparison.fails


def test_the_same_again_is_unchanged() -> None:
    comparison = compare(STEADY, [10.05])
    assert comparison.verdict is Verdict.UNCHANGED
    assert not comparison.rerun


def test_half_the_limit_wants_two_reruns() -> None:
    assert compare(STEADY, [10.3]).rerun
    assert not compare(STEADY, [10.3, 10.3, 10.3]).rerun


def test_noise_widens_the_limit() -> None:
    noisy = [8.0, 12.0, 9.0, 11.0, 10.0, 8.5, 11.5, 10.5, 9.5, 10.0]
    comparison = compare(noisy, [11.2, 11.1, 11.3])
    assert comparison.limit > 30
    assert not comparison.fails


@pytest.mark.parametrize("earlier", range(5))
def test_few_earlier_runs_give_no_verdict(earlier: int) -> None:
    comparison = compare(STEADY[:earlier], [20.0])
    assert (comparison.verdict, comparison.baseline, comparison.fails) == (Verdict.RECORDING, earlier, False)


@pytest.mark.parametrize("earlier", range(5, 10))
def test_five_to_nine_earlier_runs_show_and_do_not_fail(earlier: int) -> None:
    comparison = compare(STEADY[:earlier], [12.0, 12.0, 12.0])
    assert (comparison.verdict, comparison.fails) == (Verdict.REGRESSED, False)


def test_only_the_newest_twenty_count() -> None:
    comparison = compare([5.0] * 30 + STEADY * 2, [10.0])
    assert (comparison.verdict, comparison.baseline) == (Verdict.UNCHANGED, 20)


def test_no_run_is_missing() -> None:
    assert compare(STEADY, []).verdict is Verdict.MISSING


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_a_value_that_has_no_ratio_is_inconclusive(value: float) -> None:
    assert compare(STEADY, [value]).verdict is Verdict.INCONCLUSIVE
    assert compare([*STEADY, value], [10.0]).baseline == len(STEADY)


def test_what_can_be_zero_is_compared_by_difference() -> None:
    waits = Scale(floor=0.1)
    comparison = compare([0.0] * 10, [0.0], waits)
    assert (comparison.verdict, comparison.change, comparison.limit) == (Verdict.UNCHANGED, 0, 0.1)
    assert compare([0.0] * 10, [0.3, 0.3, 0.3], waits).verdict is Verdict.REGRESSED
    assert compare([0.0] * 10, [0.02], waits).verdict is Verdict.UNCHANGED


def test_where_more_is_better_less_is_a_regression_and_shown_as_less() -> None:
    comparison = compare(STEADY, [8.0, 8.0, 8.0], Scale(higher_is_better=True))
    assert comparison.verdict is Verdict.REGRESSED
    assert comparison.change == pytest.approx(-20)
    assert comparison.lower < -20 < comparison.upper


@given(st.lists(st.floats(1, 100), min_size=5, max_size=30), st.lists(st.floats(1, 100), min_size=1, max_size=3))
def test_the_unit_does_not_matter(baseline: list[float], runs: list[float]) -> None:
    seconds = compare(baseline, runs)
    milliseconds = compare([1000 * each for each in baseline], [1000 * each for each in runs])
    assert milliseconds.change == pytest.approx(seconds.change, abs=1e-6)
    assert milliseconds.limit == pytest.approx(seconds.limit, abs=1e-6)


def test_sentences() -> None:
    noisy = [each * (1.02 if index % 2 else 0.98) for index, each in enumerate(STEADY)] * 2
    assert compare(STEADY, [11.2] * 3).sentence("RTX 4090") == (
        "+12 % (3 runs); limit 5 % = the least that counts; 10 baseline runs, RTX 4090."
    )
    assert compare(noisy, [11.2] * 3).sentence() == "+12 % (3 runs); limit 7 % = 3 × noise; 20 baseline runs."
    assert compare(STEADY[:6], [11.2] * 3).sentence() == (
        "+12 % (3 runs); limit 5 % = the least that counts; 6 baseline runs; "
        "shown only: 10 baseline runs are needed to fail."
    )
    assert compare(STEADY, [10.09]).sentence() == "+0.9 %; a slowdown of 5 % would have been seen."
    assert compare(STEADY, [10.41]).sentence() == "+4.1 % (+2.1 to +6.2); limit 5 %."
    assert compare(STEADY[:4], [10.0]).sentence() == (
        "4 of 10 baseline runs; to compare now, run both interleaved: run_ab."
    )
    assert compare(STEADY, []).sentence() == "No run; there are 10 baseline runs."
    assert compare(STEADY, [math.inf]).sentence() == "No comparison: a run has no value that can be compared."
    assert compare([0.0] * 10, [0.3] * 3, Scale(floor=0.1)).sentence() == (
        "+0.3 s (3 runs); limit 0.1 s = the least that counts; 10 baseline runs."
    )


# noise, earlier runs; false alarms per commit of 8 scenarios; unchanged when clean; +10 % found; +20 % found.
TABLE = [
    (0.01, 10, 0.000, 1.00, 1.00, 1.00),
    (0.02, 5, 0.002, 0.81, 0.92, 1.00),
    (0.02, 10, 0.0005, 0.92, 0.97, 1.00),
    (0.02, 20, 0.0001, 0.95, 0.99, 1.00),
    (0.05, 5, 0.044, 0.75, 0.23, 0.74),
    (0.05, 10, 0.006, 0.91, 0.15, 0.77),
    (0.05, 20, 0.0006, 0.95, 0.09, 0.80),
]


@pytest.mark.parametrize(("noise", "earlier", "alarms", "unchanged", "ten", "twenty"), TABLE)
def test_error_rates(noise: float, earlier: int, alarms: float, unchanged: float, ten: float, twenty: float) -> None:
    rng = random.Random(f"{noise} {earlier}")
    clean = [_commit(rng, noise, earlier, 0.0).verdict for _ in range(4000)]
    assert 1 - (1 - _share(clean, Verdict.REGRESSED)) ** 8 <= alarms + 0.012
    assert _share(clean, Verdict.UNCHANGED) == pytest.approx(unchanged, abs=0.03)
    for slowdown, power in ((1.1, ten), (1.2, twenty)):
        slower = [_commit(rng, noise, earlier, math.log(slowdown)).verdict for _ in range(1000)]
        assert _share(slower, Verdict.REGRESSED) == pytest.approx(power, abs=0.05)


def _commit(rng: random.Random, noise: float, earlier: int, effect: float) -> Comparison:
    """One commit, judged with the reruns that it asks for."""
    baseline = [math.exp(rng.gauss(0, noise)) for _ in range(earlier)]
    runs = [math.exp(rng.gauss(effect, noise)) for _ in range(3)]
    first = compare(baseline, runs[:1])
    return compare(baseline, runs) if first.rerun else first


def _share(verdicts: list[Verdict], wanted: Verdict) -> float:
    return sum(verdict is wanted for verdict in verdicts) / len(verdicts)
