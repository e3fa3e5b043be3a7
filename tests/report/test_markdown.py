"""The Markdown summary: the verdict first, no foreign text as markup, and within GitHub's size limit."""

from __future__ import annotations

import dataclasses
import html
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pytest_comfyload.report.github import Section, code, fenced, fitted, in_text
from pytest_comfyload.report.html.content import Content
from pytest_comfyload.report.html.overview import Headline, Overview
from pytest_comfyload.report.markdown import COMMENT_SIZE, MARK, ComparedTest, blocks, summary_markdown
from pytest_comfyload.report.slo_table import TestSummary
from pytest_comfyload.result.checks import Check
from tests.report.html.scripted import scripted_store
from tests.report.test_terminal import _run as made_run

MET = Check("success_rate", 100.0, "%", 4, "==", 100.0, True, "pass", "100 % = 100 %, as measured.")
MISSED = Check("total_time.p95", 14.4, "s", 60, "<", 12.0, False, "fail", "14.4 s > 12 s; even so.", None, 13.0, 16.0)
CLOSE = Check("total_time.p95", 11.8, "s", 60, "<", 12.0, True, "inconclusive", "11.8 s < 12 s, but.", "x", 9.0, 13.0)

HOSTILE = "a|b \\| `c` ``` <img src=x onerror=alert(1)> @octocat #1 [x](http://evil) ![y](z) $1$ _z_ **b** &lt; www.e"
MARKDOWN = MarkdownIt("commonmark").enable("table")


def _summary(*checks: Check, nodeid: str = "test_it.py::test_it", confident: bool = False, **run: Any) -> TestSummary:
    return TestSummary(nodeid, (made_run(**run),), checks, confident=confident)


def _headline(*summaries: TestSummary, **more: Any) -> str:
    mark, headline = summary_markdown(summaries, **more).splitlines()[:2]
    assert mark == MARK
    return headline.removeprefix("### ")


@pytest.mark.parametrize(
    ("summary", "headline"),
    [
        (_summary(MET), "✅ Load tests: 1 SLO held"),
        (_summary(MET, MISSED), "❌ Load tests: 1 of 2 SLOs violated, 1 held"),
        (_summary(MET, CLOSE), "⚠️ Load tests: 1 of 2 SLOs inconclusive, 1 held"),
        (_summary(MET, CLOSE, confident=True), "❌ Load tests: 1 of 2 SLOs inconclusive, 1 held"),
        (TestSummary("t", (), (MET, MISSED), ("a < 1",)), "❌ Load tests: 1 of 3 SLOs violated, 1 not reached, 1 held"),
        (_summary(state="invalid", invalid_because="it lagged"), "❌ Load tests: no SLO was asserted; 1 run invalid"),
        (_summary(MET, state="contaminated"), "⚠️ Load tests: 1 SLO held; 1 run contaminated"),
    ],
)  # fmt: skip
def test_the_headline_is_the_verdict(summary: TestSummary, headline: str) -> None:
    assert _headline(summary) == headline


@pytest.fixture(scope="module")
def overview(tmp_path_factory: pytest.TempPathFactory) -> Overview:
    folder = tmp_path_factory.mktemp("markdown")
    return Content(scripted_store(folder / "store"), folder).overview


def test_the_headline_is_that_of_the_reports_first_screen(overview: Overview) -> None:
    page = summary_markdown([_summary(MET, MISSED)], overview=overview, links=[("Report", "https://host/r/index.html")])
    headline, _, *details = page.splitlines()[1:6]
    assert headline == f"### ❌ {in_text(overview.headline.sentence)}"
    assert details == [f"- {in_text(each)}" for each in overview.headline.details]
    assert "\nLoad tests: 1 of 2 SLOs violated, 1 held\n" in page
    assert '<a href="https://host/r/index.html">Report</a>' in MARKDOWN.render(page)
    # A session that passed does not hide that the newest commit is broken.
    assert summary_markdown([_summary(MET)], overview=overview).splitlines()[1].startswith("### ❌ ")


def test_a_failure_is_not_under_the_headline_of_a_report_without_one(overview: Overview) -> None:
    headline = Headline("good", "0123456789: nothing broken, nothing slower.", ())
    good = dataclasses.replace(overview, headline=headline)
    assert _headline(_summary(MET), overview=good) == "✅ 0123456789: nothing broken, nothing slower."
    failed = _headline(_summary(MET), overview=good, tests_failed=1)
    assert failed == "❌ Load tests: 1 SLO held; 1 test failed"


def test_each_scenario_has_its_last_runs_drawn_as_text(overview: Overview) -> None:
    page = summary_markdown([], overview=overview)
    rows = [line for line in page.splitlines() if re.search("[▁▂▃▄▅▆▇█]", line)]
    assert len(rows) == len(overview.rows)
    (txt2img,) = [row for row in rows if "txt2img" in row]
    drawn = re.search(r"<code>([▁▂▃▄▅▆▇█]+)</code>", txt2img)
    assert drawn is not None
    # It became slower half-way through the history.
    assert max(drawn[1][:12]) < min(drawn[1][-10:])  # the code points of the blocks are in the order of their heights
    assert "</table>" in MARKDOWN.render(page)


@pytest.mark.parametrize(("levels", "drawn"), [([], ""), ([0.0, 0.5, 1.0], "▁▅█"), ([1.0], "█"), ([0.12, 0.13], "▁▂")])
def test_blocks(levels: list[float], drawn: str) -> None:
    assert blocks(levels) == drawn


def test_what_may_have_caused_a_change_follows_its_verdict() -> None:
    page = summary_markdown([], [ComparedTest("t.py::t", "regressed", "+73 %.", ("ImageScale.width 512 → 704", "b"))])
    assert "**regressed**: +73 %.; changed: ImageScale.width 512 → 704; b\n" in page


def test_a_test_that_failed_otherwise_is_not_green() -> None:
    assert _headline(_summary(MET), tests_failed=2) == "❌ Load tests: 1 SLO held; 2 tests failed"


def test_what_was_not_met_stands_open_and_the_rest_is_folded() -> None:
    page = summary_markdown([_summary(MET, CLOSE, MISSED), TestSummary("t.py::test_b", (), (), ("oom_errors == 0",))])
    shown, folded = page.split("<details>", 1)
    rows = [line for line in shown.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows[1:]] == ["| ❌ violated", "| ⚠️ inconclusive", "| ❌ not reached"]
    assert "| 14.4 s | 13–16 s | -20 % | 60 | <code>test_it.py::test_it</code> |" in rows[1]
    assert "<code>oom_errors == 0</code>" in rows[3]
    assert "14.4 s &#62; 12 s; even so." in shown
    assert "<summary>1 SLO held</summary>" in folded
    assert "  4 prompts succeeded in 1 min 3 s" in folded


def test_simulated_invalid_and_compared_runs_are_told_of() -> None:
    page = summary_markdown(
        [_summary(simulated=True, state="invalid", invalid_because="the generator lagged")],
        [ComparedTest("test_it", "regressed", "+12 % (3 runs); limit 5 %.")],
    )
    assert "> **SIMULATED**" in page
    assert "- <code>test_it.py::test_it</code>: the generator lagged\n" in page
    assert "- <code>test_it</code> **regressed**: +12 % (3 runs); limit 5 %.\n" in page


def test_no_load_at_all() -> None:
    assert summary_markdown([]) == f"{MARK}\n### ✅ Load tests: no SLO was asserted\n"


# --- foreign text ---


def test_a_hostile_test_is_shown_as_it_is_called() -> None:
    hostile = f"t.py::test_it[{HOSTILE}\n```\n| x |]"
    reason = f"{HOSTILE}\n\n# heading"
    check = Check(f"node_time[{HOSTILE}].p95", 2.0, "s", 4, "<", 1.0, False, "fail", reason)
    page = summary_markdown(
        [_summary(check, nodeid=hostile, title=hostile, scenario=HOSTILE, state="invalid", invalid_because=reason)],
        [ComparedTest(hostile, "regressed", reason)],
    )
    rendered = MARKDOWN.render(page)
    assert set(re.findall(r"</?([a-z][a-z0-9]*)", rendered)) == {
        *("h3", "table", "thead", "tbody", "tr", "th", "td", "code", "ul", "li", "strong", "p", "pre"),
        *("details", "summary"),
    }
    assert rendered.count("<h3") == 1
    assert rendered.count("<tr>") == 2
    assert rendered.count("<td") == 7
    assert "@octocat" not in re.sub(r"<(code|pre)[^>]*>.*?</\1>", "", rendered, flags=re.DOTALL)


@given(st.text(max_size=60))
def test_any_text_in_a_cell_is_that_text(text: str) -> None:
    rendered = MARKDOWN.render(f"| a | b |\n|---|---|\n| {code(text)} | {in_text(text)} |\n")
    cells = re.findall("<td>(.*?)</td>", rendered, flags=re.DOTALL)
    seen = " ".join("".join(each if each.isprintable() else " " for each in text).split(" ")).strip()
    assert [html.unescape(re.sub("</?code>", "", cell)).replace("\u200b", "").strip() for cell in cells] == [seen, seen]


@given(st.lists(st.text(alphabet="`~ ab\n", max_size=12), max_size=4))
def test_nothing_ends_a_fence_but_its_end(lines: list[str]) -> None:
    tokens = MARKDOWN.parse(f"{fenced(lines)}\nafter\n")
    assert [token.type for token in tokens] == ["fence", "paragraph_open", "inline", "paragraph_close"]


def test_a_long_text_is_cut() -> None:
    assert len(code("x" * 100_000)) < 400


# --- the size ---


def _large(number: int) -> list[TestSummary]:
    return [
        _summary(MET, MISSED, nodeid=f"t.py::test_{index}[é|]", run_id=str(index), title=f"t.py::test_{index}")
        for index in range(number)
    ]


@pytest.mark.parametrize("size", [1500, 5000, COMMENT_SIZE, 1024 * 1024])
def test_it_keeps_to_the_size_and_says_what_it_left_out(size: int) -> None:
    page = summary_markdown(_large(2000), size=size)
    assert len(page.encode()) <= size
    assert "2000 of 4000 SLOs violated, 2000 held" in page
    assert page.count("<details>") == page.count("</details>")
    note = page.splitlines()[-1]
    assert note.startswith("_Left out, to keep to GitHub's limit: ")
    assert note.endswith(" of 2000 runs._")


def test_what_fits_is_whole() -> None:
    page = summary_markdown(_large(20))
    assert "Left out" not in page
    assert page.count("❌ violated") == page.count("✅ held") == 20


def test_violated_slos_are_the_last_to_be_left_out() -> None:
    page = summary_markdown(_large(30), size=12_000)
    assert page.count("❌ violated") == 30
    assert "of 30 runs" in page


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 200)), max_size=8), st.integers(600, 5000))
def test_fitted_pages_never_exceed_their_size(shape: list[tuple[int, int]], size: int) -> None:
    sections = [Section("things", ["é" * length + "\n"] * number, "head\n", "tail\n") for number, length in shape]
    assert len(fitted("top\n", sections, size).encode()) <= size
