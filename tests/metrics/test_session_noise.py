"""Noise within segments, and steps between them."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.metrics.session_noise import (
    OwnNoise,
    Step,
    estimate,
    first_session,
    median_variance,
    noise_of_runs,
    own_noise,
    steps,
)

GRAIN, EFFECT = 0.01, math.log(1.05)
VALUES = st.lists(st.floats(-5, 5), min_size=2, max_size=30)


def _drawn(seed: int, n: int, sd: float = 0.02) -> list[float]:
    rng = random.Random(seed)
    return [rng.gauss(0, sd) for _ in range(n)]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9])
def test_the_variance_of_a_median(n: int) -> None:
    rng = random.Random(n)
    medians = [sorted(rng.gauss(0, 1) for _ in range(n)) for _ in range(20_000)]
    squares = [((each[(n - 1) // 2] + each[n // 2]) / 2) ** 2 for each in medians]
    assert median_variance(n) == pytest.approx(math.fsum(squares) / len(squares), rel=0.08)


def test_noise_is_that_which_was_drawn() -> None:
    found = [own_noise(_drawn(seed, 20), GRAIN, EFFECT) for seed in range(300)]
    logs = [math.log(each.deviation) for each in found if each is not None]
    assert math.exp(math.fsum(logs) / len(logs)) == pytest.approx(0.02, rel=0.1)


def test_three_odd_sessions_of_twenty_are_not_noise() -> None:
    values = _drawn(1, 20)
    for at in (4, 9, 14):
        values[at] += math.log(3)
    noise = own_noise(values, GRAIN, EFFECT)
    assert noise is not None
    assert noise.deviation < 0.05


@given(VALUES, st.floats(-3, 3))
def test_noise_does_not_depend_on_the_level(values: list[float], shift: float) -> None:
    one, other = (own_noise(each, GRAIN, EFFECT) for each in (values, [value + shift for value in values]))
    assert one is not None
    assert other is not None
    assert one.deviation == pytest.approx(other.deviation, rel=0.02, abs=1e-6)


@given(VALUES)
def test_noise_is_never_nothing_nor_endless(values: list[float]) -> None:
    noise = own_noise(values, GRAIN, EFFECT)
    assert noise is not None
    assert 0.2 * GRAIN <= noise.deviation < math.inf
    assert 0 < noise.freedom <= 0.6 * (len(values) - 1) + 1e-9


@pytest.mark.parametrize("at", range(5, 18))
def test_a_step_is_found_and_told_where_it_is(at: int) -> None:
    values = [each + (math.log(1.43) if number >= at else 0.0) for number, each in enumerate(_drawn(at, 20))]
    found = steps(values, GRAIN, EFFECT)
    assert {first_session(values, step) for step in found} == {at}
    assert found[0].jump == pytest.approx(math.log(1.43), abs=0.05)


@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 20])
def test_there_is_no_step_in_noise(n: int) -> None:
    assert sum(len(steps(_drawn(seed, n), GRAIN, EFFECT)) for seed in range(100)) <= 1


def test_a_lone_odd_session_is_not_a_step() -> None:
    values = _drawn(3, 20)
    values[10] += 1.0
    assert steps(values, GRAIN, EFFECT) == []


def test_a_step_does_not_count_as_noise() -> None:
    values = [each + (0.36 if number >= 10 else 0.0) for number, each in enumerate(_drawn(5, 20))]
    noise = own_noise(values, GRAIN, EFFECT)
    assert noise is not None
    assert noise.deviation < 0.04


def test_an_accepted_change_is_not_noise_however_young_it_is() -> None:
    values = [0.0, 0.01, -0.01, 0.005, 0.36, 0.37]
    known, unknown = own_noise(values, GRAIN, EFFECT, accepted=4), own_noise(values, GRAIN, EFFECT)
    assert known is not None
    assert unknown is not None
    assert known.deviation < 0.02 < unknown.deviation
    assert own_noise(values[3:5], GRAIN, EFFECT, accepted=1) is None


def test_steady_creep_does_not_count_as_noise() -> None:
    noise = own_noise([0.005 * at for at in range(20)], GRAIN, EFFECT)
    assert noise is not None
    assert noise.deviation < 0.005


def test_before_anything_is_known_noise_is_the_usual_one() -> None:
    assert estimate(None, [], GRAIN).deviation == pytest.approx(0.02)
    assert estimate(None, [OwnNoise(0.3, 9.0)] * 7, GRAIN).borrowed == 0


def test_a_quiet_series_outgrows_loud_ones() -> None:
    loud = [OwnNoise(0.08, 11.0)] * 7
    young, old = (estimate(OwnNoise(0.01, freedom), loud, GRAIN) for freedom in (1.0, 11.0))
    assert old.deviation < young.deviation / 2


def test_a_loud_series_does_not_borrow_the_calm_of_most() -> None:
    some_loud = [OwnNoise(0.01, 2.0)] * 4 + [OwnNoise(0.05, 2.0)] * 3
    assert estimate(OwnNoise(0.01, 1.2), some_loud, GRAIN).deviation > 0.025


def test_noise_is_at_least_a_grain_and_the_error_of_few_prompts() -> None:
    assert estimate(OwnNoise(0.002, 11.0), [OwnNoise(0.002, 11.0)] * 7, GRAIN).deviation == GRAIN
    few = estimate(OwnNoise(0.01, 3.0), [], GRAIN, OwnNoise(0.06, 40.0))
    assert (few.deviation, few.freedom) == (0.06, 40.0)


def test_runs_of_a_session_are_taken_to_share_most_of_its_noise() -> None:
    noise = noise_of_runs([0.0, 0.02, -0.02], GRAIN)
    assert noise is not None
    assert noise.deviation == pytest.approx(0.02 / math.sqrt(0.2))
    assert noise_of_runs([0.0], GRAIN) is None


def test_the_first_session_of_a_young_level_is_itself() -> None:
    values = [*_drawn(9, 12), 0.4]
    assert first_session(values, Step(12, 0.4)) == 12
