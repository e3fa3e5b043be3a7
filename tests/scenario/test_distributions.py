"""Distributions draw what their names promise, never outside their bounds, and have the mean that they report."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.errors import UsageError
from pytest_comfyload.scenario.distributions import (
    DistributionSpec,
    Lognormal,
    TruncatedDistribution,
    exponential,
    lognormal,
    normal,
    uniform,
)

N = 20_000
LAWS = [
    uniform(3, 9),
    normal(50, 10),
    normal(50, 10, min=55),
    normal(0, 1, min=-1, max=3),
    lognormal(5, 20),
    lognormal(5, 20, min=1, max=10),
    exponential(4),
    exponential(4, min=2, max=6),
]
numbers = st.floats(-1e6, 1e6)
positive = st.floats(1e-3, 1e6)


def law_of(distribution: DistributionSpec) -> TruncatedDistribution:
    return distribution.read(lambda value, name: float(value))  # type: ignore[arg-type]


def drawn(distribution: DistributionSpec, n: int = N) -> list[float]:
    law, rng = law_of(distribution), random.Random(1)
    return [law.draw(rng) for _ in range(n)]


def share_below(values: list[float], x: float) -> float:
    return sum(value < x for value in values) / len(values)


def test_the_shapes_are_what_their_parameters_say() -> None:
    assert share_below(drawn(uniform(3, 9)), 4.5) == pytest.approx(0.25, abs=0.02)
    bell = drawn(normal(50, 10))
    assert statistics.fmean(bell) == pytest.approx(50, abs=0.5)
    assert statistics.stdev(bell) == pytest.approx(10, rel=0.03)
    tail = drawn(lognormal(5, 20))
    assert share_below(tail, 5) == pytest.approx(0.5, abs=0.02)
    assert share_below(tail, 20) == pytest.approx(0.95, abs=0.01)
    assert share_below(drawn(exponential(4)), 4) == pytest.approx(1 - math.exp(-1), abs=0.02)


def test_nothing_piles_up_at_the_bounds() -> None:
    values = drawn(normal(50, 10, min=55, max=60))
    assert share_below(values, 55.01) < 0.01
    whole = statistics.NormalDist(50, 10)
    share = (whole.cdf(57) - whole.cdf(55)) / (whole.cdf(60) - whole.cdf(55))
    assert share_below(values, 57) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("distribution", LAWS, ids=repr)
def test_the_mean_and_the_median_are_those_of_what_is_drawn(distribution: DistributionSpec) -> None:
    law, values = law_of(distribution), drawn(distribution)
    error = statistics.stdev(values) / math.sqrt(N)
    assert law.mean == pytest.approx(statistics.fmean(values), abs=5 * error)
    assert share_below(values, law.median) == pytest.approx(0.5, abs=0.02)


@given(st.data())
def test_no_number_is_ever_outside_and_the_same_seed_draws_the_same(data: st.DataObject) -> None:
    low, high = sorted((data.draw(numbers), data.draw(numbers)))
    distribution = data.draw(
        st.sampled_from(
            [
                uniform(low, high),
                normal(data.draw(numbers), data.draw(positive), min=low, max=high),
                exponential(data.draw(positive), min=low, max=high),
                lognormal(data.draw(positive), 2e6, min=low, max=high),
            ]
        )
    )
    seed = data.draw(st.integers(0, 2**32))
    try:
        law = law_of(distribution)
    except UsageError:
        return
    one, two = ([law.draw(rng) for _ in range(20)] for rng in (random.Random(seed), random.Random(seed)))
    assert one == two
    assert all(low <= number <= high for number in one)
    assert low <= law.median <= high


@given(positive, st.floats(0, 1, exclude_max=True))
def test_open_ends_are_finite_too(scale: float, share: float) -> None:
    class Rng(random.Random):
        def random(self) -> float:
            return share

    for distribution in (normal(scale, scale), exponential(scale), lognormal(scale, 2 * scale)):
        assert math.isfinite(law_of(distribution).draw(Rng()))


def test_the_smallest_number_is_below_every_median() -> None:
    assert Lognormal(2.0, 1.0).below(5e-324) == 0


def test_one_number_is_a_law() -> None:
    law = law_of(uniform(4, 4))
    assert (law.draw(random.Random(1)), law.mean, law.median) == (4, 4, 4)


@pytest.mark.parametrize(
    ("distribution", "says"),
    [
        (uniform(9, 3), "low=9 is above high=3"),
        (normal(5, 0), "stdev=0 must be above 0"),
        (normal(5, 1, min=9, max=2), "min=9 must be below max=2"),
        (normal(5, 1, min=40), "almost none of its values lie from 40 to inf; move min or max"),
        (lognormal(0, 5), "median=0 must be above 0"),
        (lognormal(5, 5), "p95=5 must be above the median, 5"),
        (exponential(0), "mean=0 must be above 0"),
        (exponential(1, max=-1), "min=0 must be below max=-1"),
    ],
    ids=repr,
)
def test_what_is_no_distribution(distribution: DistributionSpec, says: str) -> None:
    with pytest.raises(UsageError) as refusal:
        law_of(distribution)
    assert str(refusal.value) == says


def test_it_reads_as_it_was_written() -> None:
    assert repr(normal(768, 128, min=512)) == "normal(768, 128, min=512)"
    assert repr(exponential("5s", max="1m")) == "exponential('5s', max='1m')"
