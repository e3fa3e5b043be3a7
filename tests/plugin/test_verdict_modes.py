"""`--comfyload-verdict`: whether a bound that only the value clears passes the test, and how it is reported."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

from tests.plugin.suite import Suite

SUITE = """
import unittest
from pytest_comfyload.capacity.answer import Unconfirmed
from pytest_comfyload.metrics.intervals import Interval
from pytest_comfyload.metrics.metric import Metric

pytestmark = load_scenario("txt2img", users=2, fetch=False, max_send_lag="30s", warmup=0)
CLEAR = Metric(9.8, "made.p95", "s", 60, Interval(9.0, 10.0))
CLOSE = Metric(11.8, "made.p95", "s", 60, Interval(9.0, 13.0))
UNCONFIRMED = Unconfirmed(Interval(9.0, 10.0), "budget", "the budget had no time left to confirm it")
UNRESOLVED = Metric(9.8, "capacity", "users", 60, evidence=UNCONFIRMED)
FEW = Metric(11.8, "made.p95", "s", 60, Interval(9.0, float("inf")))

def test_clear(load):
    assert CLEAR < 12
def test_fact(load):
    assert load.oom_errors == 0
def test_close(load):
    assert CLOSE < 12
def test_unresolved(load):
    assert UNRESOLVED > 4
def test_few(load):
    assert FEW < 12
def test_violated(load):
    assert CLOSE < 11
    assert CLEAR < 12
class TestOldStyle(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def _load(self, load):
        self.load = load
    def test_unittest_close(self):
        assert CLOSE < 12
    def test_unittest_violated(self):
        assert CLEAR < 5
def test_no_slo(load):
    assert 1 == 2
@pytest.mark.xfail(strict=True)
def test_expected(load):
    assert CLOSE < 12
"""

VERDICTS = {
    "test_clear": "pass",
    "test_fact": "pass",
    "test_close": "inconclusive",
    "test_unresolved": "inconclusive",
    "test_few": "inconclusive",
    "test_violated": "violated",
    "test_unittest_close": "inconclusive",
    "test_unittest_violated": "violated",
    "test_no_slo": None,
    "test_expected": "inconclusive",
}
VIOLATED = {"test_violated", "test_unittest_violated", "test_no_slo"}
INCONCLUSIVE = {"test_close", "test_unresolved", "test_few", "test_unittest_close"}


def _run(suite: Suite, server: str, *arguments: str) -> tuple[pytest.RunResult, ET.Element]:
    suite.write("test_it.py", SUITE)
    result = suite.run("--comfyui-url", server, "--junitxml=it.xml", *arguments)
    return result, ET.parse(suite.folder / "it.xml").getroot()


def _failures(junit: ET.Element) -> dict[str, str]:
    return {
        str(case.get("name")): failure.get("message", "") + (failure.text or "")
        for case in junit.iter("testcase")
        for failure in case.iter("failure")
    }


def _verdicts(junit: ET.Element) -> dict[str, str | None]:
    return {
        str(case.get("name")): {each.get("name"): each.get("value") for each in case.iter("property")}.get(
            "comfyload.verdict"
        )
        for case in junit.iter("testcase")
    }


def _ends(result: pytest.RunResult) -> list[str]:
    """Return the last word of each row about a check."""
    return [
        line.split()[-1]
        for line in result.outlines
        if line.lstrip().startswith(("made.p95 <", "oom_errors ==", "capacity >"))
    ]


def test_point_lets_the_value_decide(suite: Suite, server: str, workers: list[str]) -> None:
    result, junit = _run(suite, server, "-v", *workers)
    # A strict xfail that passes is a failure.
    assert set(_failures(junit)) == {*VIOLATED, "test_expected"}
    assert _verdicts(junit) == VERDICTS
    assert sorted(_ends(result)) == sorted(
        ["pass", "pass", "pass?", "unresolved", "unsupported", "FAIL", "pass?", "FAIL", "pass?"]
    )
    result.stdout.fnmatch_lines(["test_close: made.p95: 11.8 s < 12 s, but the high end, 13 s, is *"])
    result.stdout.fnmatch_lines(
        ["SLO violated: made.p95 11.8 s < 11 s (n=60)", "  margin -7 %, 90 % interval 9–13 s", "  11.8 s > 11 s*"]
    )


def test_confident_wants_the_interval_to_clear_the_bound(suite: Suite, server: str, workers: list[str]) -> None:
    result, junit = _run(suite, server, "-v", *workers, "--comfyload-verdict=confident")
    failures = _failures(junit)
    assert set(failures) == VIOLATED | INCONCLUSIVE
    assert _verdicts(junit) == VERDICTS
    close = failures["test_close"]
    assert "SLO inconclusive: made.p95 11.8 s < 12 s (n=60)" in close
    assert "90 % interval 9–13 s" in close
    assert "11.8 s < 12 s, but the high end, 13 s, is" in close
    assert "SLO unsupported: made.p95" in failures["test_few"]
    assert "SLO unresolved: capacity 9.8 users > 4 users (n=60)" in failures["test_unresolved"]
    assert "assert" in failures["test_unittest_violated"]
    assert sorted(_ends(result)) == sorted(
        ["pass", "pass", "INCONCLUSIVE", "UNRESOLVED", "UNSUPPORTED", "FAIL", "INCONCLUSIVE", "FAIL", "INCONCLUSIVE"]
    )


def test_the_first_inconclusive_one_ends_the_session_and_comes_again(suite: Suite, server: str) -> None:
    suite.write("test_it.py", SUITE)
    confident = ("--comfyui-url", server, "--comfyload-verdict=confident")
    suite.run(*confident, "-x").assert_outcomes(passed=2, failed=1)
    suite.run(*confident, "--lf").assert_outcomes(failed=1)


@pytest.mark.parametrize("without", ["xdist", "terminal"])
def test_in_the_ini_file_and_without_others(suite: Suite, server: str, without: str) -> None:
    suite.pytester.makeini("[pytest]\ncomfyload_verdict = confident")
    result, junit = _run(suite, server, "-p", f"no:{without}")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert set(_failures(junit)) == VIOLATED | INCONCLUSIVE


def test_the_command_line_beats_the_ini_file(suite: Suite, server: str) -> None:
    suite.pytester.makeini("[pytest]\ncomfyload_verdict = confident")
    _, junit = _run(suite, server, "--comfyload-verdict=point")
    assert "test_close" not in _failures(junit)


def test_an_unknown_verdict_is_refused(suite: Suite) -> None:
    result = suite.run_here("--comfyload-verdict=confidant")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--comfyload-verdict=confidant is unknown; legal: confident, point"])


def test_metrics_given_to_record_property_travel_as_plain_numbers(
    suite: Suite, server: str, workers: list[str]
) -> None:
    suite.write(
        "test_it.py",
        """
        @load_scenario("txt2img", fetch=False, max_send_lag="30s", warmup=0)
        def test_it(load, record_property, request):
            record_property("rate", load.success_rate)
            record_property("counts", {"oom": [load.oom_errors], "pair": (load.timeouts, "x")})
            request.addfinalizer(lambda: record_property("late", load.success_rate))
        """,
    )
    result = suite.run(*workers, "--comfyui-url", server, "--junitxml=it.xml")
    result.assert_outcomes(passed=1)
    values = {each.get("name"): each.get("value") for each in ET.parse(suite.folder / "it.xml").iter("property")}
    assert values["rate"] == values["late"] == "100.0"
    assert json.loads(str(values["counts"]).replace("'", '"').replace("(", "[").replace(")", "]")) == {
        "oom": [0],
        "pair": [0, "x"],
    }
