"""`load.baseline`: figures of earlier runs by the load's own names, and their substitutes where there are none."""

from __future__ import annotations

import pytest

from pytest_comfyload.errors import NoBaseline
from pytest_comfyload.metrics.metric import Metric, watch_comparisons
from pytest_comfyload.result.baseline import Baseline, MissingBaseline, Regressions
from tests.result.outcomes import load_of, outcome

RUNS = [
    {"generation_time.p50": time, "throughput": 30.0, "node_time.CLIP Text (a.b).p50": 0.1} for time in (2.0, 2.4, 2.1)
]
P50 = Metric(2.2, "generation_time.p50", "s", 60)


def test_a_figure_is_the_median_of_the_runs() -> None:
    baseline = Baseline(RUNS)
    assert baseline.generation_time.p50 == 2.1
    assert baseline.throughput == 30.0
    assert baseline.node_time["CLIP Text (a.b)"].p50 == 0.1
    assert (baseline.runs, bool(baseline), baseline.generation_time.p50.n) == (3, True, 3)


def test_a_figure_that_no_run_has_is_a_mistake() -> None:
    with pytest.raises(AttributeError, match=r"3 baseline runs have no figure 'generation_time\.p51'"):
        _ = Baseline(RUNS).generation_time.p51


def test_without_runs_every_comparison_holds_in_both_orders() -> None:
    absent = Baseline((), "the first run").generation_time.p50
    assert isinstance(absent, MissingBaseline)
    told: list[tuple[str, object]] = []
    with watch_comparisons(lambda metric, op, bound, result: told.append((op, bound))):
        assert all(
            [P50 < 1.1 * absent, P50 <= absent + 0.5, absent > P50, 2 * absent / 3 >= P50, P50 == absent]  # noqa: SIM300
        )
    assert [op for op, _ in told] == ["<", "<=", "<", "<=", "=="]
    assert all(isinstance(bound, MissingBaseline) and bound.why == "the first run" for _, bound in told)
    assert not absent
    assert f"{absent:.2f}" == "<no baseline for generation_time.p50: the first run>"


def test_a_required_baseline_must_be_there() -> None:
    with pytest.raises(NoBaseline, match="no baseline for generation_time: the first run"):
        _ = Baseline((), "the first run", required=True).generation_time.p50


def test_regressions_are_false_where_there_are_none() -> None:
    assert not Regressions.of([], ["+0.9 %"])
    worse = Regressions.of(["+12 %"], ["+12 %", "+1 %"])
    assert worse
    assert repr(worse) == "+12 %"
    assert worse.told == ("+12 %", "+1 %")


def test_a_load_that_nobody_keeps_has_no_past() -> None:
    load = load_of(outcome())
    assert not load.baseline
    assert not load.regressions()
    assert load.generation_time.p50 < load.baseline.generation_time.p50
