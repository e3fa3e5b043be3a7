"""Metrics, panels and GPU sources of a conftest.py work like the built-in ones, and their failures cost no run.

The code comes from docs/howto/extend.md.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pytest_comfyload import LoadResult
from pytest_comfyload.cli import app
from pytest_comfyload.history.store import Store
from pytest_comfyload.metrics.registry import METRICS
from tests.docs.blocks import blocks_of
from tests.plugin.suite import Suite

# Import numpy first: pytester drops the modules that a test imports, and numpy cannot be imported twice.
pytest.importorskip("numpy")
_PAGE = Path(__file__).parents[2] / "docs" / "howto" / "extend.md"
_BROKEN = """
from pytest_comfyload import CustomMetric

def pytest_comfyload_metrics():
    yield CustomMetric(name="words", title="", unit="", help="", measure=lambda load: 1 / 0)
    yield CustomMetric(name="text", title="", unit="", help="", measure=lambda load: ["a"], per_prompt=True)
    yield CustomMetric(name="total_time", title="", unit="", help="", measure=lambda load: 1.0)
    yield "no metric"

def pytest_comfyload_report_panels():
    return {"Broken": lambda load: load.nothing, "Empty": lambda load: {}, 3: None}

def pytest_comfyload_gpu_sources():
    return {"rack": lambda server, argument: [argument.nothing]}
"""


def _code(name: str) -> str:
    """Return the page's code for the file `name`."""
    return "\n".join(block.text for block in blocks_of(_PAGE) if block.options.get("file") == name)


@pytest.fixture
def extended(suite: Suite) -> Suite:
    (suite.folder / "conftest.py").write_text(_code("conftest.py"), encoding="utf-8")
    test = _code("test_words.py").replace("iterations=3", 'iterations=3, max_send_lag="30s"')
    (suite.folder / "test_words.py").write_text(test, encoding="utf-8")
    return suite


def test_extensions_join_what_is_built_in(extended: Suite, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result = extended.run("-v", "--comfyui-url", server, f"--comfyload-gpu={server}=rack:3")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*GPU: utilization 87 %*power 540 W*", "*words.p50 < 60 words*pass*", "*seconds_per_image < 60 s*pass*"]
    )
    result.stdout.no_fnmatch_line("warning:*")
    monkeypatch.chdir(extended.folder)
    (row,) = Store.open(".comfyload").runs()
    figures = Store.open(".comfyload").load(row).figures
    assert figures["words"]["p50"] > 0
    assert figures["seconds_per_image"] > 0
    assert figures["panels"]["Prompt texts"]["texts"] >= 1
    assert CliRunner().invoke(app, ["report"]).exit_code == 0
    page = next((extended.folder / ".comfyload" / "report" / "commits").glob("*.html")).read_text(encoding="utf-8")
    assert "<h3>Prompt texts</h3>" in page
    assert figures["panels"]["Prompt texts"]["longest"] in page


def test_a_custom_metric_can_be_the_gate(extended: Suite, server: str) -> None:
    test = extended.folder / "test_words.py"
    test.write_text(test.read_text(encoding="utf-8").replace("users=2", 'gate="words.p50", users=2'), encoding="utf-8")
    extended.run("--comfyui-url", server).assert_outcomes(passed=1)


def test_what_fails_costs_a_line_and_no_run(suite: Suite, server: str, workers: list[str]) -> None:
    (suite.folder / "conftest.py").write_text(_BROKEN, encoding="utf-8")
    body = '@load_scenario("txt2img", users=2, iterations=2, max_send_lag="30s")\ndef test_it(load):\n'
    suite.write(
        "test_it.py", body + "    assert load.success_rate == 100\n    assert load.words.n == load.text.n == 0\n"
    )
    result = suite.run("--comfyui-url", server, f"--comfyload-gpu={server}=rack:3", *workers)
    result.assert_outcomes(passed=1)
    warnings = [line for line in result.outlines if line.startswith("warning: ")]
    assert warnings == [
        "warning: metric 'total_time' failed: the name is taken, or is not a Python name; give another",
        "warning: pytest_comfyload_metrics failed: 'no metric' is not a CustomMetric",
        "warning: pytest_comfyload_report_panels failed: 3 is not a title with a function; return {title: function}",
        "warning: metric 'words' failed: ZeroDivisionError: division by zero",
        "warning: metric 'text' failed: ValueError: could not convert string to float: 'a'",
        "warning: report panel 'Broken' failed: AttributeError: 'LoadResult' object has no attribute 'nothing'",
    ]
    (row,) = Store.open(suite.folder / ".comfyload").runs()
    record = Store.open(suite.folder / ".comfyload").load(row)
    assert record.state == "valid"
    assert not {"words", "text", "panels"} & record.figures.keys()
    assert record.facts.gpu_sources == (
        f"{server}: none; rack:3 failed: AttributeError: 'str' object has no attribute 'nothing'",
    )


def test_a_hook_that_fails_is_named(suite: Suite) -> None:
    (suite.folder / "conftest.py").write_text("def pytest_comfyload_metrics():\n    raise OSError('no')\n")
    suite.write("test_it.py", "def test_it(run_load):\n    pass\n")
    result = suite.run_here()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["warning: pytest_comfyload_metrics of *conftest.py failed: OSError: no"])


def test_extensions_end_with_their_session(extended: Suite) -> None:
    (extended.folder / "plain").mkdir()
    (extended.folder / "plain" / "test_plain.py").write_text("def test_it(load):\n    assert load.total_time.p95 < 1\n")
    extended.run_here("--co", "-q", "--noconftest", "plain").assert_outcomes()  # read without extensions first
    extended.run_here("--co", "-q").assert_outcomes()
    assert "words" not in METRICS
    assert not hasattr(LoadResult, "words")


def test_a_source_that_there_is_not_is_refused_with_those_of_plugins(extended: Suite, server: str) -> None:
    result = extended.run_here("--comfyui-url", server, f"--comfyload-gpu={server}=rak")
    result.stderr.fnmatch_lines(["*rak is not a source of GPU figures; *; added by plugins: rack"])
