"""`--comfyload-html`: after the session, one file has all stored runs, including those of this session."""

from __future__ import annotations

import sys

import pytest

from pytest_comfyload.metrics.units import counted
from tests.plugin.suite import Suite

pytest.importorskip("jinja2")

LOAD = """
@load_scenario("txt2img", users=2, iterations=1, fetch=False, warmup=0, max_send_lag="30s")
def test_it(load):
    assert load.success_rate == 100
"""


def test_the_file_has_the_runs_of_this_session_and_of_those_before(
    suite: Suite, server: str, workers: list[str]
) -> None:
    suite.write("test_it.py", LOAD)
    for count in (1, 2):
        result = suite.run("--comfyui-url", server, "--comfyload-html", "out/report.html", *workers)
        result.assert_outcomes(passed=1)
        path = suite.folder / "out" / "report.html"
        assert f"HTML report: {path}" in result.outlines
        text = path.read_text(encoding="utf-8")
        assert f"{counted(count, 'run')} of" in text
        assert "success_rate == 100 %" in text
        assert "<strong>SIMULATED</strong>" in text


def test_the_ini_twin_is_a_file_beside_it(suite: Suite, server: str) -> None:
    suite.write("test_it.py", LOAD)
    (suite.folder / "pytest.ini").write_text("[pytest]\ncomfyload_html = report.html\n")
    suite.run("--comfyui-url", server).assert_outcomes(passed=1)
    assert (suite.folder / "report.html").is_file()


def test_without_a_load_nothing_is_written(suite: Suite) -> None:
    suite.write("test_it.py", "def test_it():\n    pass\n")
    result = suite.run("--comfyload-html", "report.html")
    result.assert_outcomes(passed=1)
    assert not (suite.folder / "report.html").exists()


def test_runs_that_are_not_kept_cannot_be_shown(suite: Suite) -> None:
    result = suite.run("--comfyload-html", "report.html", "--comfyload-store", "none")
    assert "ERROR: --comfyload-html shows the runs that are kept, and --comfyload-store=none keeps none" in (
        result.errlines
    )


def test_a_file_that_cannot_be_written_fails_no_test(suite: Suite, server: str) -> None:
    suite.write("test_it.py", LOAD)
    (suite.folder / "out").write_text("")
    result = suite.run("--comfyui-url", server, "--comfyload-html", "out/report.html")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["no HTML report: *"])


def test_a_missing_library_is_told_before_the_load(suite: Suite) -> None:
    suite.write("test_it.py", LOAD)
    code = (
        "import importlib.util, sys, pytest\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'jinja2' else real(name, *a)\n"
        "sys.exit(pytest.main(['--comfyload-html', 'report.html']))\n"
    )
    result = suite.pytester.run(sys.executable, "-c", code)
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: an HTML report needs jinja2: pip install 'pytest-comfyload[[]report[]]'"])
