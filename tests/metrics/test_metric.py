from __future__ import annotations

import copy
import json
import math
import operator
import pickle
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.errors import NoSamples
from pytest_comfyload.metrics.intervals import Interval
from pytest_comfyload.metrics.metric import Count, Metric, MetricValue, watch_comparisons

P95 = Metric(11.5, "generation_time.p95", "s", 60)
OOMS = Count(2, "oom_errors", 60)
COMPARISONS = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}


def told(compare: Callable[[], Any]) -> tuple[Any, list[tuple[object, ...]]]:
    seen: list[tuple[object, ...]] = []
    with watch_comparisons(lambda metric, op, bound, passed: seen.append((metric.name, op, bound, passed))):
        result = compare()
    return result, seen


@pytest.mark.parametrize("symbol", COMPARISONS)
@given(value=st.floats(-100, 100), bound=st.integers(-100, 100) | st.floats(-100, 100))
def test_a_comparison_is_told_as_it_was_written(symbol: str, value: float, bound: float) -> None:
    compare, metric = COMPARISONS[symbol], Metric(value, "m", "s", 3)
    expected = compare(value, bound)
    assert told(lambda: compare(metric, bound)) == (expected, [("m", symbol, bound, expected)])
    mirrored = COMPARISONS[MIRRORED[symbol]]
    assert told(lambda: mirrored(bound, metric)) == (expected, [("m", symbol, bound, expected)])


@pytest.mark.parametrize("symbol", COMPARISONS)
@given(value=st.integers(0, 100), bound=st.integers(-100, 100))
def test_counts_tell_theirs_too(symbol: str, value: int, bound: int) -> None:
    compare, count = COMPARISONS[symbol], Count(value, "c", 3)
    expected = compare(value, bound)
    assert told(lambda: compare(count, bound)) == (expected, [("c", symbol, bound, expected)])
    mirrored = COMPARISONS[MIRRORED[symbol]]
    assert told(lambda: mirrored(bound, count)) == (expected, [("c", symbol, bound, expected)])


@pytest.mark.parametrize("symbol", COMPARISONS)
@given(value=st.integers(0, 100), bound=st.floats(-100, 100))
def test_a_count_compared_with_a_float(symbol: str, value: int, bound: float) -> None:
    expected = COMPARISONS[symbol](value, bound)
    compared = told(lambda: COMPARISONS[symbol](Count(value, "c", 3), bound))
    assert compared == (expected, [("c", symbol, bound, expected)])


def test_a_count_compared_with_a_metric_is_told_once() -> None:
    assert told(lambda: OOMS < P95) == (True, [("oom_errors", "<", 11.5, True)])


def test_a_chained_comparison_is_two() -> None:
    _, seen = told(lambda: 10 <= P95 <= 12)
    assert seen == [("generation_time.p95", ">=", 10, True), ("generation_time.p95", "<=", 12, True)]


def test_two_metrics_are_compared_by_the_left_one() -> None:
    left, right = Metric(11.0, "left", "s", 60), Metric(12.0, "right", "s", 60)
    result, seen = told(lambda: left < right)
    assert result is True
    assert [(name, op) for name, op, _, _ in seen] == [("left", "<")]


def test_nothing_is_told_outside_the_context_nor_to_the_outer_watcher() -> None:
    outer: list[str] = []
    with watch_comparisons(lambda metric, op, bound, passed: outer.append(op)):
        _, inner = told(lambda: P95 > 3)
        assert P95 < 12
    assert P95 <= 12
    assert (outer, len(inner)) == (["<"], 1)


def test_what_cannot_be_compared_is_not_told() -> None:
    with pytest.raises(TypeError):
        told(lambda: P95 < "12")
    with pytest.raises(TypeError):
        told(lambda: OOMS >= None)
    assert (P95 == "12", P95 != "12", OOMS == None) == (False, True, False)  # noqa: E711


@pytest.mark.parametrize("symbol", COMPARISONS)
@pytest.mark.parametrize("number", [np.float64, np.float32, np.int64, np.array])
@pytest.mark.parametrize("metric", [P95, OOMS], ids=["metric", "count"])
def test_numpy_leaves_comparisons_to_the_metric(symbol: str, number: Callable[[int], Any], metric: MetricValue) -> None:
    bound = number(12)
    expected = COMPARISONS[symbol](metric.plain, 12)
    told_once = (expected, [(metric.name, symbol, 12, expected)])
    assert told(lambda: COMPARISONS[symbol](metric, bound)) == told_once
    assert told(lambda: COMPARISONS[MIRRORED[symbol]](bound, metric)) == told_once


def test_numpy_computes_with_metrics() -> None:
    array = np.array([1.0, 20.0])
    assert told(lambda: list(array > P95)) == ([False, True], [])
    assert (array * P95).tolist() == (P95 * array).tolist() == [11.5, 230.0]
    for scalar in (np.float64(2), np.float32(2), np.int64(2), np.array(2)):
        for operation in (operator.add, operator.sub, operator.mul, operator.truediv, operator.mod, operator.pow):
            assert operation(scalar, P95) == pytest.approx(operation(2.0, 11.5))
            assert operation(P95, scalar) == pytest.approx(operation(11.5, 2.0))
        assert [float(part) for part in divmod(scalar, OOMS)] == [1, 0]
    assert np.mean([P95, P95]) == 11.5
    assert np.log(P95) == math.log(11.5)


@pytest.mark.parametrize("symbol", COMPARISONS)
@pytest.mark.parametrize("bound", [Decimal(12), Fraction(12), pytest.approx(12)])
def test_bounds_of_other_kinds(symbol: str, bound: Any) -> None:
    if symbol not in ("==", "!=") and not isinstance(bound, Decimal | Fraction):
        return
    expected = COMPARISONS[symbol](11.5, 12)
    assert told(lambda: COMPARISONS[symbol](P95, bound)) == (
        expected,
        [("generation_time.p95", symbol, bound, expected)],
    )
    assert COMPARISONS[MIRRORED[symbol]](bound, P95) == expected


def test_they_are_json() -> None:
    assert json.dumps({"p95": P95, "ooms": OOMS}) == '{"p95": 11.5, "ooms": 2}'


def test_arithmetic_gives_plain_numbers() -> None:
    for made in (P95 + 1, 1 + P95, P95 - P95, P95 * 2, 2 / P95, -P95, abs(P95), round(P95, 1), P95**2, P95 % 3):
        assert type(made) is float
    for counted in (OOMS + 1, 1 + OOMS, -OOMS, OOMS * OOMS, OOMS // 2, abs(OOMS), sum([OOMS, OOMS])):
        assert type(counted) is int
    assert type(OOMS / 2) is float


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_copies_and_pickles_are_plain_numbers(protocol: int) -> None:
    for metric, plain in ((P95, 11.5), (OOMS, 2)):
        for twin in (copy.copy(metric), copy.deepcopy(metric), pickle.loads(pickle.dumps(metric, protocol))):
            assert type(twin) is type(plain)
            assert twin == plain


def test_they_are_hashed_as_numbers() -> None:
    assert hash(P95) == hash(11.5)
    assert hash(OOMS) == hash(2)
    assert {11.5: "x"}[P95] == "x"


def test_they_are_written_as_numbers() -> None:
    assert (f"{P95:.2f}", f"{P95}", repr(P95), f"{OOMS:03d}", str(OOMS)) == ("11.50", "11.5", "11.5", "002", "2")


@pytest.mark.parametrize("symbol", COMPARISONS)
def test_without_samples_no_comparison_is_possible(symbol: str) -> None:
    compare = COMPARISONS[symbol]
    empty, none_counted = Metric(float("nan"), "total_time.p95", "s", 0), Count(0, "oom_errors", 0)
    for left, right in ((empty, 12), (12.0, empty), (none_counted, 0), (0, none_counted)):
        with pytest.raises(NoSamples, match="has no samples"):
            compare(left, right)
    with pytest.raises(NoSamples, match="oom_errors has no samples"):
        compare(P95, none_counted)


def test_a_metric_without_samples_can_still_be_looked_at() -> None:
    empty = Metric(float("nan"), "total_time.p95", "s", 0)
    assert (f"{empty:.1f}", empty.name, empty.unit, empty.n) == ("nan", "total_time.p95", "s", 0)


def test_a_metric_without_an_interval_is_a_fact() -> None:
    for fact, value in ((P95, 11.5), (OOMS, 2.0)):
        assert (fact.interval, fact.lower, fact.upper) == (None, value, value)
        assert (fact.lower.name, fact.upper.name) == (f"{fact.name}.lower", f"{fact.name}.upper")


def test_the_ends_of_an_interval_are_metrics() -> None:
    metric = Metric(11.5, "m", "s", 60, Interval(10.0, math.inf))
    result, seen = told(lambda: metric.upper < 12)
    assert (result, seen) == (False, [("m.upper", "<", 12, False)])
    assert (metric.lower, metric.lower.unit, metric.lower.n) == (10.0, "s", 60)
    assert type(metric + 1) is float
    assert type(pickle.loads(pickle.dumps(metric))) is float
