"""A running load as seen by a person at a terminal, in a log and by a worker."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from pytest_comfyload.metrics.arrival_trace import arrival_line, header_line
from tests.plugin.suite import Suite

if sys.platform == "win32":
    pytest.skip("pseudo-terminals are for Unix", allow_module_level=True)

from tests.plugin.terminal import Screen, run_on_terminal

# Takes a second or two of real time.
LOADS = """
def test_first(): pass
def test_second(): pass

@load_scenario("txt2img", users=3, iterations=6, fetch=False, max_send_lag="30s", inputs={"KSampler.steps": 120})
class TestLoad:
    def test_load(self, load):
        print("hidden")

    def test_too_slow(self, load):
        assert load.success_rate == 101

def test_last(): pass
"""
OFTEN = "import pytest_comfyload.run.observer\n\npytest_comfyload.run.observer.LINE_PERIOD = 0.4\n"
LINE = r"comfyload: \d+ of 18 prompts in .* simulated, (about .* left, )?[0-3] in flight, \d in the queue"


@pytest.fixture
def folder(suite: Suite, server: str) -> Suite:
    suite.write("test_it.py", LOADS)
    (suite.folder / "conftest.py").write_text(OFTEN, encoding="utf-8")
    (suite.folder / "pytest.ini").write_text(f"[pytest]\ncomfyui_url = {server}\n", encoding="utf-8")
    return suite


def _views(seen: list[str]) -> list[str]:
    return [text for text in seen if " in flight · " in text]


@pytest.mark.parametrize("rows", [40, 10], ids=["room below", "in the last row"])
def test_the_view_stands_below_pytests_line_and_vanishes(folder: Suite, rows: int) -> None:
    screen, seen = run_on_terminal(folder.folder, rows=rows)
    views = _views(seen)
    assert len(views) >= 2
    *_, title, advance, facts = next(view for view in views if " of 18 prompts in " in view).rstrip().splitlines()
    assert title.startswith("TestLoad · txt2img, 3 users × 6 iterations")
    assert "━" in advance
    assert " in flight · " in facts
    assert "3 in flight · " in "".join(views)
    assert " it/s" in "".join(views)
    lines = screen.text.splitlines()
    assert not [line for line in lines if " in flight" in line or "━" in line]
    start = next(n for n, line in enumerate(lines) if line == "test_it.py ..")
    # Pytest resumes after the permanent lines; the file's name is above them.
    resumed = next(line for line in lines[start + 1 :] if line.startswith("."))
    assert resumed.startswith(".F.")
    assert resumed.endswith("[100%]")
    assert any("1 failed, 4 passed in" in line for line in lines)
    assert "hidden" not in screen.text


def test_headline_and_greeting_stay_above(folder: Suite) -> None:
    screen, _ = run_on_terminal(folder.folder)
    text = screen.text.replace("\n", "")
    headline = "comfyload: TestLoad: txt2img, 3 users × 6 iterations, expected "
    assert text.count(headline) == 1
    assert text.index("SIMULATED at ×100") < text.index(headline)


@pytest.mark.parametrize("verbose", [False, True])
def test_ctrl_c_takes_the_view_away(folder: Suite, verbose: bool) -> None:
    def interrupt(child: subprocess.Popen[bytes]) -> None:
        child.send_signal(signal.SIGINT)

    def in_view(screen: Screen) -> bool:
        return " in flight · " in screen.text

    screen, seen = run_on_terminal(folder.folder, *["-v"] * verbose, until=in_view, then=interrupt)
    assert _views(seen)
    assert " in flight" not in screen.text
    assert "━" not in screen.text
    assert "KeyboardInterrupt" in screen.text


def test_a_log_gets_a_line_now_and_then(folder: Suite) -> None:
    result = folder.run()
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.re_match_lines([r"test_it\.py \.\.", r"comfyload: .* SIMULATED .*", LINE, r"\.F\. .*"])
    assert result.stdout.str().count("test_it.py ") == 1
    assert "\x1b" not in result.stdout.str()


@pytest.mark.parametrize("why", ["CI", "-s", "TERM", "log_cli"])
def test_what_is_no_place_for_a_view_gets_lines(folder: Suite, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    arguments = {"-s": ["-s"], "log_cli": ["-o", "log_cli=true"]}.get(why, [])
    if why == "CI":
        (folder.folder / "conftest.py").write_text(f"import os\nos.environ['CI'] = 'true'\n{OFTEN}", encoding="utf-8")
    if why == "TERM":
        (folder.folder / "conftest.py").write_text(f"import os\nos.environ['TERM'] = 'dumb'\n{OFTEN}", encoding="utf-8")
    screen, seen = run_on_terminal(folder.folder, *arguments)
    assert not _views(seen)
    assert " of 18 prompts in " in screen.text
    assert " in flight, " in screen.text.replace("\n", "")


@pytest.mark.parametrize("arguments", [["-q"], ["-p", "no:terminal"]], ids=" ".join)
def test_silence(folder: Suite, arguments: list[str]) -> None:
    screen, seen = run_on_terminal(folder.folder, *arguments)
    assert not _views(seen)
    assert "comfyload: " not in screen.text
    assert " in flight" not in screen.text


def test_workers_are_silent_and_the_controller_shows_its_own(folder: Suite) -> None:
    pytest.importorskip("xdist")
    screen, seen = run_on_terminal(folder.folder, "-n2", "--dist=loadfile")
    assert not _views(seen)
    assert "comfyload: test_it.py" not in screen.text
    assert "1 failed, 4 passed in" in screen.text


# --- what is known before ---

PLANNED = """
@load_scenario("txt2img", rate="5/min", arrival="poisson", duration="10m")
class TestSlo:
    def test_one(self, load): pass
    def test_two(self, load): pass

@pytest.mark.parametrize("steps", [5, 6])
@load_scenario("txt2img", users=2, iterations=3, inputs={"KSampler.steps": param("steps")})
def test_steps(load, steps): pass

@load_scenario("txt2img", trace="week.jsonl", window="0s..1h")
def test_trace(load): pass

@load_scenario("txt2img", preset="smoke", inputs={"KSampler.steps": param("nothing")})
def test_wrong(load): pass

def test_plain(): pass
"""


def _write_planned(suite: Suite) -> str:
    """Write a suite of planned loads with its trace, and return the digest of the trace."""
    suite.write("test_it.py", PLANNED)
    start = datetime(2026, 11, 3, 8, tzinfo=UTC)
    trace = "".join([header_line(start, 7200), *(arrival_line(time, "3f2a") for time in (1, 2, 3, 4000))])
    (suite.folder / "week.jsonl").write_text(trace)
    return hashlib.sha256(trace.encode()).hexdigest()[:8]


def test_to_collect_shows_what_is_planned(suite: Suite) -> None:
    digest = _write_planned(suite)
    lines = suite.run_here("--co").outlines
    begin = next(n for n, line in enumerate(lines) if " planned loads " in line)
    assert lines[begin + 1 : begin + 11] == [
        "test_it.py::TestSlo",
        "  txt2img, 5/min for 10 min, Poisson arrivals · 10 min · about 50 prompts",
        "test_it.py::test_steps[5]",
        "  txt2img, 2 users × 3 iterations · 6 prompts",
        "test_it.py::test_steps[6]",
        "  txt2img, 2 users × 3 iterations · 6 prompts",
        "test_it.py::test_trace",
        f"  txt2img, 3 arrivals in 1 h of trace week.jsonl ({digest}), 0s..1h · 1 h · 3 prompts",
        "test_it.py::test_wrong",
        "  param('nothing'): the test is not parametrised by it; parameters: none",
    ]
    assert "comfyload" not in "".join(line for line in lines[begin - 14 : begin] if "<" in line)


def test_what_a_program_reads_of_the_collection_has_nothing_in_between(suite: Suite) -> None:
    _write_planned(suite)
    lines = suite.run_here("--co", "-q").outlines
    assert lines[:7] == [
        "test_it.py::TestSlo::test_one",
        "test_it.py::TestSlo::test_two",
        "test_it.py::test_steps[5]",
        "test_it.py::test_steps[6]",
        "test_it.py::test_trace",
        "test_it.py::test_wrong",
        "test_it.py::test_plain",
    ]
    assert not [line for line in lines if "planned" in line]
