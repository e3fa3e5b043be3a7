"""Snapshots of runs as text: what is known, in which time, and no line wider than the screen."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pytest_comfyload.engine.progress import LoadProgress
from pytest_comfyload.report.live import ERASE, drawn_below, headline, plain_line, view_lines

TITLE, SCENARIO = "test_it.py::test_it", "txt2img, 5 users × 3 iterations"


def _progress(**different: Any) -> LoadProgress:
    known: dict[str, Any] = {
        "scale": 1.0, "warming_up": False, "elapsed": 12.2, "expected": 45.0, "total": 15, "done": 5, "in_flight": 5,
        "dropped": 0, "queue_remaining": 6, "p95": 4.25, "steps_per_second": 11.3,
    }  # fmt: skip
    return LoadProgress(**{**known, **different})


TIMED: dict[str, Any] = {"total": None, "expected": 600.0, "elapsed": 90.0, "done": 23}


def _view(progress: LoadProgress, *, color: bool = False, width: int = 100, encoding: str = "utf-8") -> list[str]:
    return [
        line.rstrip() for line in view_lines(TITLE, SCENARIO, progress, color=color, width=width, encoding=encoding)
    ]


# --- the headline ---


@pytest.mark.parametrize(
    ("progress", "expectation"),
    [
        (_progress(), ", expected 45 s"),
        (_progress(expected=600.0), ", expected 10 min"),
        (_progress(expected=None), ""),
        (_progress(expected=120.0, scale=20.0), ", expected 2 min simulated, about 6 s"),
        (_progress(expected=3.0, scale=100.0), ", expected 3 s simulated, about 1 s"),
    ],
)
def test_the_headline_says_how_long_in_both_times(progress: LoadProgress, expectation: str) -> None:
    assert headline(TITLE, SCENARIO, progress) == f"comfyload: test_it: {SCENARIO}{expectation}"
    assert headline("ab txt2img", SCENARIO, progress).startswith(f"comfyload: ab txt2img: {SCENARIO}")


# --- plain lines ---


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (
            _progress(),
            "5 of 15 prompts in 12 s, about 24 s left, 5 in flight, 6 in the queue, total p95 4.25 s, 11.3 it/s",
        ),
        (
            _progress(elapsed=20.0, scale=20.0),
            "5 of 15 prompts in 20 s simulated, about 2 s left, 5 in flight, 6 in the queue, total p95 4.25 s, "
            "11.3 it/s",
        ),
        (
            _progress(warming_up=True, elapsed=3.0, done=0, p95=None, in_flight=1, queue_remaining=1),
            "warming up for 3 s, 1 in flight, 1 in the queue, 11.3 it/s",
        ),
        (
            _progress(**TIMED, steps_per_second=None, errors={"timeout": 2, "oom": 1}, dropped=3, p95=math.inf),
            "23 prompts in 1 min 30 s of 10 min, about 8 min 30 s left, 5 in flight, 6 in the queue, total p95 ∞, "
            "3 dropped, 2 timeout, 1 oom",
        ),
        (
            _progress(**{**TIMED, "elapsed": 612.0}, steps_per_second=None, p95=None),
            "23 prompts, draining since 12 s, 5 in flight, 6 in the queue",
        ),
        (
            _progress(**{**TIMED, "expected": None}, steps_per_second=None, p95=None),
            "23 prompts in 1 min 30 s, 5 in flight, 6 in the queue",
        ),
    ],
    ids=["iterations", "simulated", "warm-up", "duration", "drain", "unknown"],
)
def test_a_plain_line(progress: LoadProgress, line: str) -> None:
    assert plain_line(progress) == f"comfyload: {line}"
    assert plain_line(progress, "run 2 of 16: ") == f"comfyload: run 2 of 16: {line}"


# --- the view ---


def test_the_view_in_three_lines() -> None:
    assert _view(_progress(errors={"oom": 2})) == [
        "test_it · txt2img, 5 users × 3 iterations",
        "━━━━━━━━━━                      5 of 15 prompts in 12 s · about 24 s left",
        "5 in flight · 6 in the queue · total p95 4.25 s · 11.3 it/s · 2 oom",
    ]


@pytest.mark.parametrize(
    ("progress", "filled"),
    [
        (_progress(done=15), 30),
        (_progress(done=0), 0),
        (_progress(**TIMED), 4.5),
        (_progress(**{**TIMED, "elapsed": 900}), 30),
    ],
    ids=["done", "begun", "in time", "beyond its time"],
)
def test_the_bar_is_as_full_as_the_run(progress: LoadProgress, filled: float) -> None:
    bar = _view(progress)[1]
    assert bar.count("━") + bar.count("╸") / 2 == pytest.approx(filled, abs=0.5)


@pytest.mark.parametrize("width", [79, 119])
def test_the_bar_leaves_room_for_the_time_that_is_left(width: int) -> None:
    progress = _progress(total=12345, done=6789, elapsed=3700.0, scale=20.0)
    advance = _view(progress, width=width)[1]
    assert advance.endswith("about 2 min 31 s left")
    assert len(advance) <= width


def test_what_is_left_of_the_bar_is_grey() -> None:
    assert "\x1b[90m━━━" in _view(_progress(done=0), color=True)[1]


def test_the_bar_is_red_only_where_prompts_failed() -> None:
    well, failing = _view(_progress(), color=True)[1], _view(_progress(errors={"oom": 1}), color=True)[1]
    assert well.startswith("\x1b[32m━")
    assert failing.startswith("\x1b[31m━")


def test_there_is_no_bar_while_it_warms_up_or_nothing_is_known() -> None:
    assert _view(_progress(warming_up=True, elapsed=3.0))[1] == "warming up for 3 s"
    assert _view(_progress(**{**TIMED, "expected": None}))[1] == "23 prompts in 1 min 30 s"


@pytest.mark.parametrize("width", [10, 40, 79])
@pytest.mark.parametrize("progress", [_progress(), _progress(**TIMED), _progress(warming_up=True)])
def test_no_line_is_wider_than_the_screen(progress: LoadProgress, width: int) -> None:
    lines = view_lines("t" * 200, SCENARIO, progress, color=False, width=width)
    assert len(lines) == 3
    assert max(map(len, lines)) <= width


def test_colours_and_characters_are_those_of_the_terminal() -> None:
    assert "\x1b" not in "".join(_view(_progress(errors={"oom": 1})))
    assert "\x1b[31m · 1 oom" in "".join(_view(_progress(errors={"oom": 1}), color=True))
    plain = "".join(_view(_progress(), encoding="ascii"))
    assert plain.isascii()
    assert "5 of 15 prompts" in plain


def test_titles_are_text_and_no_markup() -> None:
    assert (
        view_lines("test_it[bold]", "a[red]", _progress(), color=False, width=80)[0].rstrip()
        == "test_it[bold] · a[red]"
    )


def test_what_is_drawn_below_leaves_the_cursor_in_its_place() -> None:
    assert drawn_below(["one", "two"], 12) == f"{ERASE}\r\none\r\ntwo\x1b[2A\x1b[13G"
