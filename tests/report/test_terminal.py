"""The terminal summary of hand-made runs: a line for each test, details of failures, and nothing that misleads."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pytest_comfyload.metrics.assessment import CheckStatus
from pytest_comfyload.report.slo_table import TestSummary
from pytest_comfyload.report.terminal import summary_lines
from pytest_comfyload.result.checks import Check


def _run(**different: Any) -> dict[str, Any]:
    times = {"n": 4, "failed": 0, "mean": 1.5, "min": 1.0, "max": 2.0, "p50": 1.25, "p90": 2.0, "p95": 2.0, "p99": 2.0}
    run = {
        "run_id": "20260101T000000-00000000",
        "title": "test_it.py::test_it",
        "scenario": "txt2img, 2 users × 2 iterations",
        "workflow": "txt2img",
        "servers": ["http://gpu1:8188"],
        "seed": 7,
        "simulated": False,
        "state": "valid",
        "invalid_because": None,
        "window": 63.0,
        "prompts": 4,
        "intended": 4,
        "submitted": 4,
        "dropped": 0,
        "errors": {},
        "by_group": {},
        "by_server": {},
        "by_worker": {},
        "success_rate": 100.0,
        "throughput": 3.81,
        "loop_lag": 0.001,
        "notes": [],
        "queue_time": times,
        "generation_time": times,
        "total_time": times,
    }
    return {**run, **different}


MET = Check("success_rate", 100.0, "%", 4, "==", 100.0, True)
NARROW_HEAD = [["SLO", "measured", "margin", "n", "verdict"], ["90", "%", "interval"]]
MISSED = Check("total_time.p95", 14.4, "s", 4, "<", 12.0, False)


def _summary(
    *checks: Check, nodeid: str = "test_it.py::test_it", outcome: str = "passed", **different: Any
) -> TestSummary:
    return TestSummary(nodeid, (_run(**different),), checks, outcome=outcome)


def _lines(*summaries: TestSummary, color: bool = False, width: int = 200, verbosity: int = 1) -> list[str]:
    """Return the details below the table of tests."""
    lines = _all_lines(*summaries, color=color, width=width, verbosity=verbosity)
    quiet = _all_lines(*summaries, color=color, width=width, verbosity=-1)
    assert lines[: len(quiet)] == quiet
    return lines[len(quiet) :]


def _all_lines(*summaries: TestSummary, color: bool = False, width: int = 200, verbosity: int = 0) -> list[str]:
    return summary_lines(summaries, color=color, width=width, verbosity=verbosity)


# --- a line for each test ---


def test_a_line_when_all_is_well() -> None:
    summaries = [_summary(MET), _summary(nodeid="t.py::TestIt::test_of_the_same_run", total_time={})]
    for verbosity in (-1, 0):
        assert [line.split() for line in _all_lines(*summaries, verbosity=verbosity)] == [
            ["prompts", "total", "total", "images", "run", "test"],
            ["p50", "p95", "/min"],
            ["pass", "4", "1.25", "s", "2", "s", "3.81", "00000000", "test_it"],
            ["pass", "4", "–", "–", "3.81", "00000000", "test_of_the_same_run"],
        ]


@pytest.mark.parametrize("width", [20, 80, 120])
def test_a_line_fits_and_its_name_breaks_between_words(width: int) -> None:
    name = "test_the_last_of_fifteen_gets_its_picture_within_two_minutes"
    lines = _all_lines(
        _summary(MET, nodeid=f"t.py::{name}", prompts=1500, errors={"oom": 1}), width=width, verbosity=-1
    )
    assert all(len(line) <= max(80, width) for line in lines)
    begin = lines[0].index("test")
    parts = [line[begin:].strip() for line in lines[2:]]
    assert "".join(parts) == name
    assert all(part.endswith("_") for part in parts[:-1])
    assert lines[2].split()[:4] == ["pass", "1499", "of", "1500"]


def test_a_test_with_several_loads_has_the_figures_of_the_last() -> None:
    runs = (_run(), _run(run_id="20260101T000000-00000001", prompts=7))
    (line,) = _all_lines(TestSummary("t.py::test_it", runs, (MET,)))[2:]
    assert line.split()[:2] == ["pass", "7"]
    assert line.endswith("00000001  test_it (the last of 2 loads)")


def test_the_load_that_the_figures_are_of_is_named_by_its_id() -> None:
    runs = (_run(title="one user"), _run(run_id="20260101T000000-00000001", title="five users"))
    (line,) = _all_lines(TestSummary("t.py::test_it", runs, (MET,)))[2:]
    assert line.endswith("test_it [five users] (the last of 2 loads)")


def test_tests_of_the_same_name_are_named_by_their_files() -> None:
    lines = _all_lines(_summary(), _summary(nodeid="b.py::test_it"), _summary(nodeid="b.py::test_other"))
    assert [line.split()[-1] for line in lines[2:]] == ["test_it.py::test_it", "b.py::test_it", "test_other"]


@pytest.mark.parametrize(
    ("summary", "verdict", "explained"),
    [
        (_summary(MET), "pass", False),
        (_summary(MISSED), "FAIL", True),
        (TestSummary("t.py::t", (_run(),), (), outcome="failed"), "FAIL", True),
        (TestSummary("t.py::t", (_run(),), (), ("throughput > 4",)), "FAIL", True),
        (_summary(state="invalid", invalid_because="late", outcome="failed"), "INVALID", True),
        (_summary(MET, state="contaminated"), "pass", True),
        (TestSummary("t.py::t", (_run(),), (MISSED,), outcome="rerun"), "again", True),
        (TestSummary("t.py::t", (_run(),), (MISSED,), outcome="skipped"), "xfail", True),
    ],
)  # fmt: skip
def test_what_failed_is_explained(summary: TestSummary, verdict: str, explained: bool) -> None:
    lines = _all_lines(_summary(MET, nodeid="t.py::test_other", run_id="1-11111111"), summary)
    assert lines[3].split()[0] == verdict
    assert (len(lines) > 4) is explained
    assert not [line for line in lines[4:] if "test_other" in line]
    assert len(_all_lines(summary, verbosity=-1)) == 3


def test_what_is_not_certain_is_counted() -> None:
    unsure = _summary(_judged("unsupported", "too few."))
    assert _all_lines(unsure)[2].startswith("pass?  ")
    assert _all_lines(unsure)[-1].startswith("1 test passes on too few prompts to be certain (pass?)")
    assert _all_lines(unsure, verbosity=1)[-1] == "test_it: total_time.p95: too few."


def test_notes_and_comparisons_of_passing_tests_are_kept_short() -> None:
    ab = ("ab: B against A: improved", "  B is better.", "  a table")
    summaries = [
        _summary(notes=["a warm-up prompt failed"]),
        _summary(nodeid="t.py::test_two", notes=["a warm-up prompt failed"]),
        TestSummary("t.py::test_ab", (), (), comparisons=(ab,)),
    ]
    assert _all_lines(*summaries)[5:] == [*ab[:2], "note: a warm-up prompt failed (test_it and 1 other)"]
    assert "  a table" in _all_lines(*summaries, verbosity=1)


# --- details ---


def test_a_run_in_five_lines() -> None:
    assert _lines(_summary()) == [
        "test_it.py::test_it",
        "  txt2img, 2 users × 2 iterations · seed 7 · http://gpu1:8188",
        "  4 prompts succeeded in 1 min 3 s · 3.81 images/min",
        "  p50 / p95: queue 1.25 s / 2 s · generation 1.25 s / 2 s · total 1.25 s / 2 s",
        "  run 20260101T000000-00000000",
    ]


def test_a_run_that_two_tests_looked_at_is_shown_once_with_the_checks_of_both() -> None:
    lines = _lines(_summary(MET, nodeid="t.py::test_one"), _summary(MISSED, nodeid="t.py::TestIt::test_two[a::b]"))
    assert len([line for line in lines if "prompts succeeded" in line]) == 1
    assert [line.split() for line in lines[5:]] == [
        ["SLO", "measured", "90", "%", "interval", "margin", "n", "verdict"],
        ["test_one"],
        ["success_rate", "==", "100", "%", "100", "%", "4", "pass"],
        ["test_two[a::b]"],
        ["total_time.p95", "<", "12", "s", "14.4", "s", "-20", "%", "4", "FAIL"],
    ]


@pytest.mark.parametrize("width", [20, 80, 200])
def test_without_colour_there_is_no_escape_and_no_figure_is_cut_off(width: int) -> None:
    lines = _all_lines(_summary(MET, MISSED), width=width)
    assert not [line for line in lines if "\x1b" in line]
    assert all(len(line) <= max(80, width) for line in lines)
    assert any("total_time.p95 < 12 s" in line and line.endswith("FAIL") for line in lines)
    assert "  p50 / p95: queue 1.25 s / 2 s · generation 1.25 s / 2 s · total 1.25 s / 2 s" in lines


def test_long_names_give_way_to_figures_and_verdict() -> None:
    name = 'node_time["CheckpointLoaderSimpleWithAVeryLongName"].p95'
    lines = _lines(_summary(Check(name, 1234.5, "images/min", 4, ">=", 99999.0, False)), width=80)
    table = lines[5:]
    assert all(len(line) <= 80 for line in table)
    assert [line.split() for line in table[:2]] == NARROW_HEAD
    (first,) = [line for line in table if line.endswith("FAIL")]
    assert first.split()[-6:] == ["1234", "images/min", "-99", "%", "4", "FAIL"]
    width = first.index("1234")
    written = "".join(line[:width].strip() for line in table[3:])
    assert written.replace(" ", "") == f"{name}>=99999images/min"


@pytest.mark.parametrize(
    ("value", "written"),
    [(1.4e-08, "0 s"), (-1e-9, "0 s"), (0.0123, "0.0123 s"), (12.345, "12.3 s"), (1234.5, "1234 s"), (math.inf, "∞")],
)
def test_figures_are_for_people(value: float, written: str) -> None:
    (row,) = [
        line for line in _lines(_summary(Check("total_time.p95", value, "s", 4, "==", 1.0, True))) if "pass" in line
    ]
    assert row.split()[4:-2] == written.split()


def test_colour_is_for_terminals() -> None:
    coloured = _all_lines(_summary(MET, MISSED), color=True)
    assert any("\x1b[32mpass" in line for line in coloured)
    assert any("FAIL" in line and "\x1b[1;31m" in line for line in coloured)


def test_titles_are_text_and_no_markup() -> None:
    lines = _lines(_summary(MET, title="test_it[bold]", nodeid="t.py::test_it[red]"))
    assert "test_it[bold]" in lines
    assert "test_it[red]" in lines


def test_one_prompt_is_no_plural() -> None:
    assert any(line.startswith("  1 prompt succeeded in ") for line in _lines(_summary(prompts=1)))
    assert any(
        line.startswith("  0 of 1 prompt succeeded, 1 oom in ")
        for line in _lines(_summary(prompts=1, errors={"oom": 1}))
    )


def test_an_infinite_percentile_is_shown_as_such() -> None:
    figures = {"n": 4, "failed": 3, "mean": 1.0, "min": 1.0, "max": 1.0, "p50": math.inf, "p95": math.inf}
    check = Check("total_time.p95", math.inf, "s", 4, "<", 12.0, False)
    lines = _lines(_summary(check, total_time=figures, errors={"oom": 2, "timeout": 1}))
    assert "  1 of 4 prompts succeeded, 2 oom, 1 timeout in 1 min 3 s · 3.81 images/min" in lines
    assert any(line.endswith("total ∞ / ∞") for line in lines)
    assert ["total_time.p95", "<", "12", "s", "∞", "4", "FAIL"] in [line.split() for line in lines]


def test_simulated_runs_say_so() -> None:
    lines = _all_lines(_summary(simulated=True), verbosity=1)
    assert lines[0].startswith("SIMULATED: a model's figures in virtual time")
    assert any(line.endswith(" · SIMULATED") for line in lines)
    assert not [line for line in _all_lines(_summary(), verbosity=1) if "SIMULATED" in line]


def test_notes_and_what_makes_a_run_invalid() -> None:
    lines = _lines(
        _summary(notes=["a warm-up prompt failed"], state="invalid", invalid_because="the generator was late")
    )
    assert "  INVALID: the generator was late" in lines
    assert "  note: a warm-up prompt failed" in lines


def test_a_contaminated_run_says_what_follows_from_it() -> None:
    lines = _lines(_summary(state="contaminated", notes=["3 prompts shared the server"]))
    assert [line for line in lines if "CONTAMINATED" in line or "note:" in line] == [
        "  CONTAMINATED: other clients used the server at the same time; the run is not used as a baseline",
        "  note: 3 prompts shared the server",
    ]
    assert not [line for line in _lines(_summary()) if "CONTAMINATED" in line]


def test_dropped_arrivals_are_told() -> None:
    lines = _lines(_summary(intended=9, dropped=5, errors={"oom": 1}))
    assert "  3 of 4 prompts succeeded, 1 oom, 5 more dropped in 1 min 3 s · 3.81 images/min" in lines


def test_groups_and_servers_have_a_line_each() -> None:
    times = {"p50": 1.25, "p95": 2.0}
    light = {"prompts": 3, "errors": {}, "queue_time": times, "total_time": times}
    flood = {"prompts": 2, "errors": {"lost": 2}, "total_time": {"p50": math.inf, "p95": math.inf}}
    lines = _lines(_summary(by_group={"light": light, "f": flood}, by_server={"http://gpu1:8188": light}))
    assert lines[4:7] == [
        "    group light              3 prompts succeeded · queue 1.25 s / 2 s · total 1.25 s / 2 s",
        "    group f                  0 of 2 prompts succeeded, 2 lost · total ∞ / ∞",
        "    server http://gpu1:8188  3 prompts succeeded · queue 1.25 s / 2 s · total 1.25 s / 2 s",
    ]


def test_a_run_without_outcomes() -> None:
    nothing = dict.fromkeys(("success_rate", "throughput"))
    run = _run(prompts=0, intended=0, submitted=0, window=0.0, **nothing)
    for name in ("queue_time", "generation_time", "total_time"):
        del run[name]
    lines = _all_lines(TestSummary("t.py::test_it", (run,), ()), width=80, verbosity=1)
    assert "  0 prompts succeeded in 0 ms · 0 images/min" in lines


def test_checks_without_a_run() -> None:
    lines = _lines(TestSummary("t.py::test_it", (), (MET,)))
    assert [line.split()[0] for line in lines] == ["SLO", "test_it", "success_rate"]


def _judged(verdict: CheckStatus, sentence: str = "", *, passed: bool = True) -> Check:
    return Check("total_time.p95", 11.8, "s", 60, "<", 12.0, passed, verdict, sentence, None, 9.25, 13.0)


def test_the_interval_has_a_column_or_a_second_line() -> None:
    summary = _summary(_judged("pass"), MET)
    wide = [line.split() for line in _lines(summary, width=100)[5:]]
    assert wide[0] == ["SLO", "measured", "90", "%", "interval", "margin", "n", "verdict"]
    assert wide[2] == ["total_time.p95", "<", "12", "s", "11.8", "s", "9.25–13", "+2", "%", "60", "pass"]
    narrow = [line.split() for line in _lines(summary, width=80)[5:]]
    assert narrow[:2] == NARROW_HEAD
    assert narrow[3:5] == [["total_time.p95", "<", "12", "s", "11.8", "s", "+2", "%", "60", "pass"], ["9.25–13"]]
    assert len(narrow) == 6


def test_an_interval_that_bounds_nothing_is_not_shown() -> None:
    check = Check("total_time.p95", 11.8, "s", 3, "<", 12.0, True, "unsupported", "", None, -math.inf, math.inf)
    assert _lines(_summary(check))[-1].split()[4:] == ["11.8", "s", "+2", "%", "3", "unsupported"]


@pytest.mark.parametrize(
    ("check", "confident", "verdict"),
    [
        (_judged("pass", "fine."), False, "pass"),
        (_judged("inconclusive", "1 of 60 was over."), False, "pass?"),
        (_judged("unsupported", "too few."), False, "unsupported"),
        (_judged("inconclusive", "1 of 60 was over."), True, "INCONCLUSIVE"),
        (_judged("unsupported", "too few."), True, "UNSUPPORTED"),
        (_judged("fail", "even the low end.", passed=False), True, "FAIL"),
    ],
)
def test_what_did_not_simply_pass_says_why_below_the_table(check: Check, confident: bool, verdict: str) -> None:
    lines = _lines(TestSummary("test_it.py::test_it", (), (check,), confident=confident))
    assert lines[2].split()[-1] == verdict
    assert lines[3:] == ([] if verdict == "pass" else [f"test_it: total_time.p95: {check.sentence}"])


def test_what_was_not_reached_is_a_row_without_figures() -> None:
    lines = _lines(TestSummary("test_it.py::test_it", (), (), ("throughput > 4", "queue_time.p50 <= bound[red]")))
    assert [line.split() for line in lines[1:]] == [
        ["test_it"],
        ["throughput", ">", "4", "not", "reached"],
        ["queue_time.p50", "<=", "bound[red]", "not", "reached"],
    ]
