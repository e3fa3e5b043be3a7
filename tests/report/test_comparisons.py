"""How comparisons are printed: the worst first, with what moved and what was changed."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from pytest_comfyload.compare.comparison import SeriesComparison, Side, across
from pytest_comfyload.history.index import Row
from pytest_comfyload.history.record import Record
from pytest_comfyload.report.comparisons import (
    across_lines,
    coloured,
    comparison_data,
    comparison_lines,
    missing_lines,
)
from tests.compare.test_comparison import TIMES, judged, timed, told_by
from tests.history.records import row


def _of(time: float, **different: Any) -> SeriesComparison:
    rows = [timed(number, each, **different) for number, each in enumerate(TIMES)]
    return judged([*rows, timed(20, time, **different)])


def test_the_worst_comes_first_and_explains_itself() -> None:
    lines = comparison_lines([_of(2.0, test="same"), _of(4.0, test="slower")])
    assert lines == [
        "suspected     slower: generation_time.p50 +100 % in one run, beyond the limit of 5 %; two more decide.",
        "  against the runs before it",
        "  moved: KSampler 1.5 → 3.5 s (+2)",
        "  also: throughput 15 outputs/min → 7.5 outputs/min",
        "  changed: KSampler.steps 2 → 6",
        "unchanged     same: generation_time.p50 0 %; a slowdown of 5 % would have been seen.",
        "  against the runs before it",
    ]


def test_what_nothing_explains_is_said() -> None:
    assert "  changed: neither inputs nor versions: look at the code, the drivers and the machine" in comparison_lines(
        [_of(2.9)]
    )


def test_tests_with_too_few_runs_are_counted_in_brief() -> None:
    recording = judged([timed(1, 2.0)])
    assert comparison_lines([recording], brief=True) == [
        "recording: 1 test has no earlier session to compare with, and no verdict yet"
    ]
    invalid = judged([timed(1, 2.0, state="invalid"), timed(2, 2.0)])
    assert comparison_lines([recording, invalid], brief=True)[1:] == ["  note: runs left out: 1 invalid"]
    assert comparison_lines([recording])[0].startswith("recording     test_slo: generation_time.p50 No earlier session")


def test_in_brief_nothing_is_said_of_an_invalid_run() -> None:
    invalid = judged([*(timed(number, each) for number, each in enumerate(TIMES)), timed(20, 2.0, state="invalid")])
    assert comparison_lines([invalid], brief=True) == []
    assert comparison_lines([invalid])[0].endswith("Not compared: the run is invalid.")


def test_a_session_only_counts_what_is_unchanged() -> None:
    found = [_of(2.0, test="same"), _of(2.01, test="alike"), _of(4.0, test="slower")]
    lines = comparison_lines(found, verbosity=0)
    assert lines[0].startswith("suspected     slower: generation_time.p50 +100 %")
    assert lines[-1] == "unchanged: 2 tests, against the runs before it"
    assert comparison_lines(found, verbosity=-1) == lines[:1]
    assert comparison_lines(found[:1], verbosity=-1) == []


def test_a_verdict_is_in_its_colour() -> None:
    assert [(span.start, span.end, span.style) for span in coloured("regressed     slower: 1").spans] == [
        (0, 9, "bold red")
    ]
    assert {coloured(line).spans[0].style for line in ("unchanged: 2 tests", "improved  x")} == {"green"}
    assert not coloured("  changed: KSampler.steps 2 → 6").spans


def test_a_comparison_for_programs() -> None:
    data = comparison_data(_of(4.0))
    json.dumps(data, allow_nan=False)
    assert (data["verdict"], data["fails"], data["judged"], data["figure"]) == (
        "suspected", False, True, "generation_time.p50",
    )  # fmt: skip
    assert (data["before"], data["after"], round(data["change"]), data["change_unit"]) == (2.0, 4.0, 100, "%")
    assert data["changed"] == ["KSampler.steps 2 → 6"]
    recording = comparison_data(judged([timed(1, 2.0)]))
    assert (recording["before"], recording["change"], recording["baseline_sessions"]) == (None, None, 0)
    assert set(recording) == set(data)


def test_missing_tests_are_named() -> None:
    assert missing_lines([row(1, test="gone")], "HEAD") == ["missing       gone: no run at HEAD"]


def test_parameters_stand_side_by_side() -> None:
    rows = [timed(1, 2.0, parameters="sd15"), timed(2, 5.0, parameters="sdxl"), timed(3, 1.0, test="alone")]
    figures = {each.run_id: {"generation_time": {"p50": each.figures["generation_time.p50"]}} for each in rows}

    def record_of(each: Row) -> Record:
        return msgspec.structs.replace(told_by(each), figures=figures[each.run_id])

    sides = across(rows, "params", record_of)
    assert [(side.what, side.value, side.ratio) for side in sides] == [("sd15", 2.0, 1.0), ("sdxl", 5.0, 2.5)]
    assert across_lines(sides) == ["test_slo", "  sd15  2 s    ×1  n=3", "  sdxl  5 s  ×2.5  n=3"]


def test_nothing_to_set_side_by_side() -> None:
    assert across_lines([]) == ["nothing to compare: no test has two values there"]
    assert across_lines([Side("t", "a", 1.0, "s", 3, 1.0)]) == ["t", "  a  1 s  ×1  n=3"]
