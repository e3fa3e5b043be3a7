"""Which comparisons become SLO checks, and with which verdict, as sent with the test reports."""

from __future__ import annotations

from typing import Any

import pytest

from tests.plugin.suite import Suite

SUITE = """
from decimal import Decimal
import numpy as np
from slo import within

pytestmark = load_scenario("txt2img", users=2, iterations=2, fetch=False, max_send_lag="30s", warmup=0)

def test_metric_first(load):
    assert load.success_rate == 100
def test_bound_first(load):
    assert 100 <= load.success_rate
def test_chain(load):
    assert 0 < load.generation_time.p95 < 1000
def test_and(load):
    assert load.oom_errors == 0 and load.errors["timeout"] < 1
def test_several_lines(load):
    assert (
        load.total_time.p95
        < 10_000
    ), "too slow"
def test_in_a_helper(load):
    within(load)
def test_in_a_loop(load):
    for outcome in load.outcomes:
        assert load.throughput > 0
def test_by_hand(run_load):
    load = run_load("txt2img", fetch=False, max_send_lag="30s", warmup=0)
    assert load.success_rate > 99
def test_own_business(load):
    if load.generation_time.p95 < 1000:
        pass
    fastest = min(load.generation_time.p50, load.total_time.p50, 1000)
    ordered = sorted([load.generation_time.p50, load.total_time.p50, 1.0])
    good = load.success_rate > 1
    assert good
    assert len(load.outcomes) == 4
    assert max(load.generation_time.p50, load.queue_time.p50) is not None
    assert load.success_rate in (1.0, 100.0)
    assert len([name for name in ("a", "b") if load.success_rate > 50]) == 2
    assert sorted([load.total_time.p50, load.total_time.p95])
    assert isinstance(load.success_rate, float) and not load.outcomes == []
def test_approximately(load):
    assert load.success_rate == pytest.approx(100.001, rel=0.1)
def test_approximately_the_bound_first(load):
    assert pytest.approx(99.999, rel=0.1) == load.success_rate
def test_numpy(load):
    assert np.float64(12345) > load.total_time.p95 and np.int64(7) >= load.oom_errors
    assert load.total_time.p95 < np.array(23456)
def test_decimal(load):
    assert load.total_time.p95 < Decimal(12345)
def test_max(load):
    assert max(load.success_rate, load.oom_errors) > 50
def test_all_of_the_parts(load):
    assert all(part.success_rate == 100 for part in load.by("user").values())
def test_any(load):
    assert any([load.success_rate < 50, load.oom_errors < 1])
def test_or(load):
    assert load.success_rate < 50 or load.oom_errors < 1
def test_none_of(load):
    assert not (load.oom_errors > 1 or load.timeouts > 2)

def test_approximately_fails(load):
    assert load.success_rate == pytest.approx(50)
def test_approximately_fails_bound_first(load):
    assert pytest.approx(50) == load.success_rate
def test_first_of_chain_fails(load):
    assert 1000 < load.generation_time.p95 < 2000
def test_second_of_chain_fails(load):
    assert 0 < load.generation_time.p95 < 0.001
def test_second_assert_fails(load):
    assert load.success_rate == 100
    assert load.oom_errors > 5
    assert load.throughput > 1
def test_denied(load):
    assert not load.success_rate < 50
def test_denied_fails(load):
    assert not load.success_rate > 50
def test_other_assert_fails(load):
    assert load.success_rate == 100
    assert 1 == 2
def test_loop_fails(load):
    for bound in (1, 50, 200):
        assert load.success_rate >= bound
def test_no_samples(load):
    assert load.errors[str("nonsense")] == 0
"""

# Test -> its checks as (metric, op, bound, passed).
EXPECTED: dict[str, list[tuple[str, str, float, bool]]] = {
    "test_metric_first": [("success_rate", "==", 100, True)],
    "test_bound_first": [("success_rate", ">=", 100, True)],
    "test_chain": [("generation_time.p95", ">", 0, True), ("generation_time.p95", "<", 1000, True)],
    "test_and": [("oom_errors", "==", 0, True), ("errors[timeout]", "<", 1, True)],
    "test_several_lines": [("total_time.p95", "<", 10_000, True)],
    "test_in_a_helper": [("success_rate", ">=", 99, True)],
    "test_in_a_loop": [("throughput", ">", 0, True)],
    "test_by_hand": [("success_rate", ">", 99, True)],
    "test_own_business": [],
    "test_approximately": [("success_rate", "≈", 100.001, True)],
    "test_approximately_the_bound_first": [("success_rate", "≈", 99.999, True)],
    "test_numpy": [
        ("total_time.p95", "<", 12345, True),
        ("oom_errors", "<=", 7, True),
        ("total_time.p95", "<", 23456, True),
    ],
    "test_decimal": [("total_time.p95", "<", 12345, True)],
    "test_max": [("success_rate", ">", 50, True)],
    "test_all_of_the_parts": [("[user=0] success_rate", "==", 100, True), ("[user=1] success_rate", "==", 100, True)],
    "test_any": [("oom_errors", "<", 1, True)],
    "test_or": [("oom_errors", "<", 1, True)],
    "test_none_of": [("oom_errors", "<=", 1, True), ("timeouts", "<=", 2, True)],
    "test_approximately_fails": [("success_rate", "≈", 50, False)],
    "test_approximately_fails_bound_first": [("success_rate", "≈", 50, False)],
    "test_first_of_chain_fails": [("generation_time.p95", ">", 1000, False), ("generation_time.p95", "<", 2000, True)],
    "test_second_of_chain_fails": [("generation_time.p95", ">", 0, True), ("generation_time.p95", "<", 0.001, False)],
    "test_second_assert_fails": [("success_rate", "==", 100, True), ("oom_errors", ">", 5, False)],
    "test_denied": [("success_rate", ">=", 50, True)],
    "test_denied_fails": [("success_rate", "<=", 50, False)],
    "test_other_assert_fails": [("success_rate", "==", 100, True)],
    "test_loop_fails": [
        ("success_rate", ">=", 1, True),
        ("success_rate", ">=", 50, True),
        ("success_rate", ">=", 200, False),
    ],
    "test_no_samples": [],
}


@pytest.mark.parametrize("asserts", ["rewrite", "plain"])
def test_comparisons_in_asserts_are_checks_and_no_others(suite: Suite, server: str, asserts: str) -> None:
    (suite.folder / "slo.py").write_text("def within(load):\n    assert load.success_rate >= 99\n", encoding="utf-8")
    suite.write("test_it.py", SUITE)
    suite.listen()
    result = suite.run("--comfyui-url", server, f"--assert={asserts}")
    result.assert_outcomes(passed=19, failed=9)
    reports = {report["nodeid"].rpartition("::")[2]: report for report in suite.reports()}
    expected = dict(EXPECTED)
    if asserts == "plain":
        # Plain Python stops at the first failing link of a chain; pytest's asserts evaluate all links.
        expected["test_first_of_chain_fails"] = EXPECTED["test_first_of_chain_fails"][:1]
    assert {name: _checks(report) for name, report in reports.items()} == expected


@pytest.mark.skipif(pytest.version_tuple < (9, 0), reason="subtests came with pytest 9")
def test_a_subtest_that_fails_is_the_tests_own(suite: Suite, server: str) -> None:
    suite.write(
        "test_it.py",
        """
        @load_scenario("txt2img", fetch=False, max_send_lag="30s", warmup=0)
        def test_it(load, subtests):
            with subtests.test("first", rate=load.success_rate):
                assert load.success_rate < 50
            assert load.oom_errors == 0
        """,
    )
    suite.listen()
    suite.run("--comfyui-url", server)
    (report,) = suite.reports()
    assert _checks(report) == [("success_rate", "<", 50, False), ("oom_errors", "==", 0, True)]


def _checks(report: dict[str, Any]) -> list[tuple[str, str, float, bool]]:
    return [(check["metric"], check["op"], check["bound"], check["passed"]) for check in report["checks"]]
