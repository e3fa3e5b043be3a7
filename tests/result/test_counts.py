"""Goodput counts the prompts that met their bounds, and is not a number itself."""

from __future__ import annotations

import operator
from typing import Any

import pytest

from pytest_comfyload.errors import NoSamples, UsageError
from pytest_comfyload.metrics.assessment import judge
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import OutcomeStatus
from tests.result.outcomes import failure, load_of, outcome


def _load() -> LoadResult:
    """Totals of 3.6, 4.6 … 8.6 s, of which 1.6 s are not generation, a failure, a slow fetch, and a late prompt."""
    return load_of(
        *[outcome(generation=2.0 + k) for k in range(6)],
        failure(OutcomeStatus.TIMEOUT),
        outcome(fetch=90.0),
        outcome(at=58.0, generation=2.0),
        outcome(warmup=True),
    )


def test_it_counts_who_kept_every_bound() -> None:
    load = _load()
    by_total = load.goodput(total_time=7)
    assert by_total.share == 100 * 5 / 9
    assert by_total.rate == 4  # one of the five ended after the window
    assert load.goodput(total_time="7s", generation_time=3).share == 100 * 3 / 9
    assert load.goodput(generation_time=2).share == 100 * 3 / 9  # a time equal to the bound is in time


def test_it_knows_its_name_and_its_interval() -> None:
    goodput = _load().goodput(total_time=7, generation_time=2.5)
    assert (goodput.share.name, goodput.share.unit) == ("goodput(total_time=7, generation_time=2.5).share", "%")
    assert (goodput.rate.name, goodput.rate.unit) == ("goodput(total_time=7, generation_time=2.5).rate", "prompts/min")
    many = load_of(*[outcome()] * 57, *[outcome(generation=9.0)] * 3).goodput(total_time=7).share
    assert many.lower < 95 < many.upper
    assert judge(many, ">", 90).sentence == (
        "57 of 60 in time, but up to 12 % being late cannot be excluded; about 120 prompts would settle it."
    )


@pytest.mark.parametrize("compare", [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne])
def test_it_is_not_compared_itself(compare: Any) -> None:
    with pytest.raises(UsageError, match=r"compare its \.share \(percent\) or its \.rate"):
        compare(_load().goodput(total_time=7), 95)


def test_what_has_no_bounds() -> None:
    load = _load()
    with pytest.raises(UsageError, match=r"give it a bound, such as goodput\(total_time=30\)"):
        load.goodput()
    with pytest.raises(UsageError, match="no such time; legal: total_time, "):
        load.goodput(totaltime=30)
    with pytest.raises(UsageError, match="goodput: total_time=-1 is not a duration"):
        load.goodput(total_time=-1)
    with pytest.raises(UsageError, match=r"goodput\(total_time=0\): a bound is a time above 0"):
        load.goodput(total_time=0)


def test_nothing_measured_is_not_compared() -> None:
    with pytest.raises(NoSamples):
        assert load_of().goodput(total_time=7).share > 95
