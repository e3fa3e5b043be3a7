"""What a CI server gets: Markdown files, annotations at the assert's line, and never a failure because of them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from pytest_comfyload.report.github import SHOWN, Annotation, commands
from tests.plugin.suite import Suite

TESTS = """
@load_scenario("txt2img", users=2, iterations=2, fetch=False, max_send_lag="30s", warmup=0)
class TestSlo:
    def test_met(self, load):
        assert load.success_rate == 100
        print("::error file=x::a test's own output is captured")

    @pytest.mark.parametrize("x", ["a,b:c%"])
    def test_missed(self, load, x):
        assert load.total_time.p95 < 0.25  # here
"""


def _line_of(suite: Suite, text: str) -> int:
    lines = (suite.folder / "test_it.py").read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


def _commands(result: pytest.RunResult) -> list[dict[str, str]]:
    """Return the workflow commands as GitHub's runner reads them: from lines that begin with one."""
    found = []
    for line in result.outlines:
        if line.startswith("::error "):
            properties, message = line.removeprefix("::error ").split("::", 1)
            pairs = (pair.split("=", 1) for pair in properties.split(","))
            found.append({**{name: unquote(value) for name, value in pairs}, "message": unquote(message)})
    return found


def test_github_gets_a_summary_and_the_assert_that_failed(
    suite: Suite, server: str, workers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = suite.folder / "summary.md"
    page.write_text("what other steps said\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    suite.write("test_it.py", TESTS)
    result = suite.run(*workers, "--comfyui-url", server)
    result.assert_outcomes(passed=1, failed=1)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("what other steps said\n\n<!-- comfyload -->\n### ❌ no commit: 1 scenario failing.\n")
    assert "\nLoad tests: 1 of 2 SLOs violated, 1 held; 1 test failed\n" in text
    assert text.count("### ") == 1
    assert "**SIMULATED**" in text
    (command,) = _commands(result)
    assert (command["file"], command["line"]) == ("test_it.py", str(_line_of(suite, "# here")))
    assert command["title"].startswith("SLO violated: total_time.p95 ")
    assert "s > 0.25 s" in command["message"]


def test_the_summary_links_to_the_published_report(suite: Suite, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYLOAD_REPORT_URL", "https://team.github.io/project/index.html")
    suite.write("test_it.py", TESTS)
    suite.run("--comfyui-url", server, "--comfyload-markdown=it.md", "--junitxml=it.xml")
    text = (suite.folder / "it.md").read_text(encoding="utf-8")
    assert (
        "[Report](https://team.github.io/project/index.html) · [this commit](https://team.github.io/project/commits/"
        in text
    )
    assert text.splitlines()[1].startswith("### ❌ no commit: 1 scenario failing.")
    assert "\nLoad tests: 1 of 2 SLOs violated, 1 held; 1 test failed\n" in text
    # The verdict against earlier runs is known only after the tests have finished.
    cases = ET.parse(suite.folder / "it.xml").getroot().iter("testcase")
    told = [{str(each.get("name")): each.get("value") for each in case.iter("property")} for case in cases]
    assert [each["comfyload.regression"] for each in told] == ["recording", "recording"]
    assert all("No earlier session" in str(each["comfyload.regression.sentence"]) for each in told)
    assert [each["comfyload.verdict"] for each in told] == ["pass", "violated"]


@pytest.mark.parametrize("url", ["ftp://host", "https://user:word@host/r", "https://host/a)b", "host"])
def test_the_address_of_a_report_is_checked(suite: Suite, url: str) -> None:
    suite.write("test_it.py", "def test_it(): pass")
    result = suite.run_here(f"--comfyload-report-url={url}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--comfyload-report-url * is not the address of a page; give https://HOST/PATH"])


def test_elsewhere_nothing_is_written(suite: Suite, server: str) -> None:
    suite.write("test_it.py", TESTS)
    result = suite.run("--comfyui-url", server)
    assert _commands(result) == []
    assert not list(suite.folder.glob("*.md"))


@pytest.mark.parametrize("more", [["-p", "no:terminal"], ["-s"], ["-q"], ["--comfyload-annotations=off"]])
def test_annotations_where_they_are_wanted(
    suite: Suite, server: str, more: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    suite.write("test_it.py", TESTS.replace("print(", "str("))
    found = _commands(suite.run("--comfyui-url", server, *more))
    assert len(found) == (0 if "--comfyload-annotations=off" in more else 1)


def test_by_option_without_github_and_relative_to_the_repository(
    suite: Suite, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_WORKSPACE", str(suite.folder.parent))
    suite.write("test_it.py", TESTS)
    (command,) = _commands(suite.run("--comfyui-url", server, "--comfyload-annotations=on"))
    assert command["file"] == f"{suite.folder.name}/test_it.py"


def test_a_run_that_is_invalid_is_annotated_at_its_test(suite: Suite, server: str) -> None:
    suite.write(
        "test_it.py",
        """
        @load_scenario("txt2img", iterations=2, inputs={"KSampler.seed": 4243}, prompts=["x"],
                       vary_text=False, fetch=False)
        def test_cached(load):
            assert load.success_rate == 100
        """,
    )
    result = suite.run("--comfyui-url", server, "--comfyload-annotations=on")
    (command,) = _commands(result)
    assert command["title"] == "Invalid run: test_it.py::test_cached"
    assert command["file"] == "test_it.py"
    assert int(command["line"]) in (_line_of(suite, "@load_scenario"), _line_of(suite, "def test_cached"))
    assert "cache" in command["message"]


def test_a_file_for_a_comment_even_without_loads(suite: Suite) -> None:
    suite.pytester.makeini("[pytest]\ncomfyload_markdown = out/comment.md")
    suite.write("test_it.py", "def test_it(): assert False")
    assert suite.run_here().ret == pytest.ExitCode.TESTS_FAILED
    text = (suite.folder / "out" / "comment.md").read_text(encoding="utf-8")
    assert text == "<!-- comfyload -->\n### ❌ Load tests: no SLO was asserted; 1 test failed\n"


def test_the_file_is_written_by_the_controller_alone(suite: Suite, server: str, workers: list[str]) -> None:
    suite.write("test_it.py", TESTS)
    suite.run(*workers, "--comfyui-url", server, "--comfyload-markdown=comment.md")
    text = (suite.folder / "comment.md").read_text(encoding="utf-8")
    assert "1 of 2 SLOs violated, 1 held; 1 test failed" in text


def test_what_cannot_be_written_is_one_line_and_no_failure(
    suite: Suite, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(suite.folder / "nowhere" / "summary.md"))
    suite.write("test_it.py", TESTS)
    result = suite.run("--comfyui-url", server, "-k", "test_met", f"--comfyload-markdown={suite.folder}")
    assert result.ret == pytest.ExitCode.OK
    for what in ("--comfyload-markdown", "GITHUB_STEP_SUMMARY"):
        (line,) = [line for line in result.outlines if line.startswith(f"comfyload: {what}: not written: ")]
        assert str(suite.folder) in line


def test_a_page_that_is_full_stays_as_it_is(suite: Suite, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    page = suite.folder / "summary.md"
    page.write_bytes(b"x" * (1024 * 1024 - 100))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    suite.write("test_it.py", TESTS)
    result = suite.run("--comfyui-url", server, "-k", "test_met")
    assert page.stat().st_size == 1024 * 1024 - 100
    result.stdout.fnmatch_lines(["comfyload: GITHUB_STEP_SUMMARY: not written: *summary.md is full"])


def test_only_collecting_writes_nothing(suite: Suite, tmp_path: Path) -> None:
    suite.write("test_it.py", TESTS)
    suite.run_here("--collect-only", "--comfyload-markdown=comment.md")
    assert not (suite.folder / "comment.md").exists()


def test_an_unknown_mode_is_refused(suite: Suite) -> None:
    result = suite.run_here("--comfyload-annotations=yes")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--comfyload-annotations 'yes': legal: auto, on, off"])


def test_junit_names_the_run(suite: Suite, server: str) -> None:
    suite.listen()
    suite.write("test_it.py", TESTS)
    suite.run("--comfyui-url", server, "-k", "test_met", "--junitxml=it.xml")
    ((run,),) = suite.run_ids().values()
    assert f'<property name="comfyload.run" value="{run}"' in (suite.folder / "it.xml").read_text(encoding="utf-8")


# --- commands ---


def _annotation(**different: Any) -> Annotation:
    return Annotation(**{"file": "a.py", "line": 3, "title": "title", "message": "message", **different})


def test_nothing_ends_a_command_before_its_end() -> None:
    (command,) = commands([_annotation(file="a,b:c.py", title="50 %: a,\n::b", message="x\r\n::error::y 5 %0A")])
    assert (
        command
        == "::error file=a%2Cb%3Ac.py,line=3,title=50 %25%3A a%2C%0A%3A\u200b%3Ab::x %0A:\u200b:error::y 5 %250A"
    )


def test_the_last_that_github_shows_names_the_others() -> None:
    found = list(commands([_annotation(line=line) for line in range(1, 15)]))
    assert len(found) == SHOWN
    assert found[-1].count("%0Aand a.py:") == 4
    assert "%0A" not in found[-2]
