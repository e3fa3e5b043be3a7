"""Interleaved pairs: their order, their ratio, and the simulated error rates of the verdict."""

from __future__ import annotations

import math
import random

import pytest

from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.paired import PairedRatio, abba, paired_ratio
from pytest_comfyload.metrics.regression import RegressionVerdict


def test_the_order_is_balanced() -> None:
    assert abba(4) == "ABBAABBA"


def test_a_plain_slowdown() -> None:
    ratio = paired_ratio([10, 10.1, 9.9, 10, 10.2, 9.8, 10], [11, 11.1, 11, 10.9, 11.2, 10.8, 11])
    assert ratio.verdict is RegressionVerdict.REGRESSED
    assert ratio.lower < ratio.value < ratio.upper
    assert ratio.value == pytest.approx(1.1, abs=0.005)


def test_drift_drops_out() -> None:
    drift = [1 + 0.1 * pair for pair in range(8)]
    ratio = paired_ratio(drift, [1.1 * each for each in drift])
    assert ratio.upper - ratio.lower < 1e-9


def test_six_pairs_decide_nothing() -> None:
    assert paired_ratio([10.0] * 6, [20.0] * 6).verdict is RegressionVerdict.INCONCLUSIVE


@pytest.mark.parametrize(("a", "b"), [([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([1.0, 0.0], [1.0, 1.0])])
def test_what_has_no_ratio_is_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(UsageError, match=r"pairs|ratio"):
        paired_ratio(a, b)


def test_error_rates_at_five_percent_noise() -> None:
    rng = random.Random(3)

    def share_regressed(slowdown: float, trials: int) -> float:
        verdicts = [_pairs(rng, slowdown).verdict for _ in range(trials)]
        return sum(verdict is RegressionVerdict.REGRESSED for verdict in verdicts) / trials

    assert share_regressed(1.0, 4000) <= 0.012
    assert share_regressed(1.1, 1000) == pytest.approx(0.66, abs=0.07)


def test_the_interval_covers_nine_of_ten() -> None:
    rng = random.Random(4)
    covered = 0
    for _ in range(4000):
        ratio = _pairs(rng, 1.1)
        covered += ratio.lower <= 1.1 <= ratio.upper
    assert covered / 4000 == pytest.approx(0.9, abs=0.02)


def _pairs(rng: random.Random, slowdown: float) -> PairedRatio:
    noise = [[math.exp(rng.gauss(0, 0.05)) for _ in range(7)] for _ in "AB"]
    return paired_ratio(noise[0], [slowdown * each for each in noise[1]])
