from __future__ import annotations

import pytest

from pytest_comfyload.metrics.intervals import Interval
from pytest_comfyload.metrics.metric import Count, Metric
from pytest_comfyload.plugin.report_data import expect_confidence, plain
from pytest_comfyload.result.checks import Check
from tests.result.outcomes import load_of, outcome

CLOSE = Check.of(Metric(11.8, "total_time.p95", "s", 60, Interval(9.0, 13.0)), "<", 12, True)
CLEAR = Check.of(Metric(9.8, "total_time.p95", "s", 60, Interval(9.0, 10.0)), "<", 12, True)


@pytest.mark.parametrize("contended", [False, True])
def test_an_inconclusive_test_fails_and_says_whose_prompts_were_among_its_own(contended: bool) -> None:
    with pytest.raises(pytest.fail.Exception) as failure:
        expect_confidence([CLEAR, CLOSE], [load_of(outcome(contended=contended))])
    lines = str(failure.value).splitlines()
    assert lines[:3] == [
        "SLO inconclusive: total_time.p95 11.8 s < 12 s (n=60)",
        "  margin +2 %, 90 % interval 9–13 s",
        f"  {CLOSE.sentence}",
    ]
    assert lines[3:] == (
        ["The run is contaminated: other clients used the server at the same time."] if contended else []
    )


def test_what_is_clear_or_violated_is_none_of_its_business() -> None:
    violated = Check.of(Metric(12.5, "total_time.p95", "s", 60, Interval(9.0, 13.0)), "<", 12, False)
    expect_confidence([CLEAR, violated], [])


def test_only_metrics_become_plain() -> None:
    metric, other = Metric(1.5, "m", "s", 3), object()
    made = plain([("a", metric), {"b": Count(2, "c", 3)}, other])
    assert [type(made[0][1]), type(made[1]["b"]), made[2] is other] == [float, int, True]
    assert made[:2] == [("a", 1.5), {"b": 2}]
