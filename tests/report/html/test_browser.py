"""The report in a real browser: it draws, responds to pointer and keys, obeys its policy, and sends no requests.

That a page logs no error, breaks no policy and sends no request is checked by `opened` for every page here.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_comfyload.history.store import Store
from pytest_comfyload.report.html.content import Content
from pytest_comfyload.report.html.write import write_site
from tests.benchmarks.histories import record
from tests.report.html.conftest import Reports
from tests.report.html.scripted import scripted_store
from tests.report.html.stores import COMMITS, with_pictures

if TYPE_CHECKING:
    from playwright.sync_api import Page

Open = Callable[..., AbstractContextManager["Page"]]

GENERATION = "#panel-generation .plot"
DRAWN = "[data-drawn]"


def _drawn(page: Page, plot: str = GENERATION) -> dict[str, float]:
    """Return the box of a chart, once it is drawn and in view."""
    chart = page.locator(plot).first
    chart.scroll_into_view_if_needed()
    page.wait_for_selector(f"{plot}{DRAWN}")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box is not None
    return {name: float(box[name]) for name in ("x", "y", "width", "height")}


def _until(page: Page, expression: str) -> None:
    """Wait for `expression`; Playwright's own waiting evaluates a string as code, which the pages' policy forbids."""
    for _ in range(500):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"never came true: {expression}")


def _state(page: Page) -> str:
    return str(page.evaluate("location.hash"))


def _choose(page: Page, control: str, words: str) -> None:
    """Choose the first option with these words."""
    option = page.locator(f"{control} option").filter(has_text=words).first.get_attribute("value")
    page.select_option(control, option)


@pytest.fixture(params=["folder", "single"])
def trend(request: pytest.FixtureRequest, reports: Reports) -> Any:
    return reports.single if request.param == "single" else reports.folder / "index.html"


def test_charts_are_drawn_when_they_come_into_view(trend: Any, opened: Open) -> None:
    with opened(trend) as page:
        assert page.locator(f"#panel-failures .plot{DRAWN}").count() == 0
        _drawn(page)
        _drawn(page, "#panel-failures .plot")
        assert page.locator(".panels .panel:visible").count() == 8
        assert "Not measured in these runs: VRAM peak (reported by the server)." in page.inner_text("#absent")


def test_pointing_at_a_run_tells_of_its_commit_and_what_changed(reports: Reports, opened: Open) -> None:
    with opened(reports.folder / "index.html", "#branch=*") as page:
        _choose(page, "#test", "txt2img")
        box = _drawn(page)
        page.mouse.move(box["x"] + box["width"] - 20, box["y"] + 80)
        page.wait_for_selector("#tip:visible")
        tip = page.inner_text("#tip")
        for word in ("(23)", "Barbara", "2025-01-06", "p50", " s"):
            assert word in tip
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] - 300)
        page.wait_for_selector("#tip", state="hidden")


def test_a_click_opens_the_page_of_the_commit(reports: Reports, opened: Open) -> None:
    with opened(reports.folder / "index.html") as page:
        box = _drawn(page)
        page.mouse.move(box["x"] + box["width"] - 20, box["y"] + 80)
        page.wait_for_selector("#tip:visible")
        page.mouse.click(box["x"] + box["width"] - 20, box["y"] + 80)
        page.wait_for_url("**/commits/*.html")
        _drawn(page, ".plot.phases")
        assert page.locator(".lanes:visible .lane").count() >= 6
        assert page.locator(".ecdf:visible").count() == 3


def test_one_cursor_runs_over_all_lanes(reports: Reports, opened: Open) -> None:
    with opened(reports.pages[2]) as page:
        lane = page.locator(".lanes:visible svg").first
        lane.scroll_into_view_if_needed()
        box = lane.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 10)
        cursor = page.locator(".lanes:visible .cursor").first
        seconds = float(page.locator(".lanes:visible").first.get_attribute("data-seconds") or "nan")
        assert float(cursor.inner_text().split()[0]) == pytest.approx(seconds / 2, rel=0.05)
        page.mouse.move(0, 0)
        assert not cursor.is_visible()


def test_without_scripts_there_are_rows_and_lanes_and_no_empty_boxes(reports: Reports, chromium: Any) -> None:
    page = chromium.new_page(java_script_enabled=False)
    page.goto((reports.folder / "index.html").as_uri())
    assert page.locator(".scenario .spark:visible").count() == 2  # the unchanged ones are collapsed
    assert page.locator("#history").is_hidden()
    page.goto(reports.pages[2].as_uri())
    assert page.locator("h3:visible").filter(has_text="Where the time went").count() == 0
    assert page.locator(".lane svg:visible").count() >= 6
    assert page.locator(".plot:visible").count() == 0
    assert page.locator(".ecdf:visible").count() == 3
    page.goto(reports.comparison.as_uri())
    assert page.locator(".forest:visible circle").count() > 5
    assert page.locator(".waterfall:visible rect").count() > 2
    assert page.locator(".ecdf:visible").count() == 3
    page.close()


def test_the_trend_prints_on_few_pages(reports: Reports, chromium: Any) -> None:
    page = chromium.new_page()
    page.goto((reports.folder / "index.html").as_uri())
    pages = re.findall(rb"/Type\s*/Page[^s]", page.pdf(format="A4"))
    assert 1 <= len(pages) <= 4
    page.close()


def test_dragging_zooms_every_chart_and_can_be_taken_back(trend: Any, opened: Open) -> None:
    ranges = "[...document.querySelectorAll('.plot')].flatMap(({ chart }) => (chart ? [[chart.low, chart.high]] : []))"
    with opened(trend) as page:
        _drawn(page, "#panel-total .plot")
        box = _drawn(page)
        before = page.evaluate(ranges)[0]
        page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 60)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 90, steps=4)
        page.mouse.up()
        _until(page, "location.hash.includes('from=')")
        after = page.evaluate(ranges)
        assert all(each == after[0] for each in after)
        assert after[0][1] - after[0][0] < 0.4 * (before[1] - before[0])
        page.click("#reset")
        _until(page, "!location.hash.includes('from=')")
        assert page.evaluate(ranges)[0] == pytest.approx(before)
        assert page.locator("#reset").is_disabled()


def test_the_wheel_zooms_with_ctrl_and_scrolls_without(trend: Any, opened: Open) -> None:
    with opened(trend) as page:
        box = _drawn(page)
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 60)
        page.mouse.wheel(0, 40)
        page.wait_for_timeout(200)
        assert "from=" not in _state(page)
        box = _drawn(page)
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 60)
        page.keyboard.down("Control")
        page.mouse.wheel(0, -200)
        page.keyboard.up("Control")
        _until(page, "location.hash.includes('from=')")


def test_branch_spacing_and_scale_are_in_the_address_and_come_back(reports: Reports, opened: Open) -> None:
    with opened(reports.folder / "index.html") as page:
        _choose(page, "#test", "txt2img")
        assert page.inner_text("#shown").startswith(f"{COMMITS - 3} runs")
        page.select_option("#branch", "feature/faster")
        assert page.inner_text("#shown").startswith("3 runs")
        page.select_option("#spacing", "date")
        page.select_option("#scale", "log")
        _drawn(page)
        state = _state(page)
    with opened(reports.folder / "index.html", state) as page:
        _drawn(page)
        assert page.inner_text("#shown").startswith("3 runs")
        assert [page.input_value(each) for each in ("#branch", "#spacing", "#scale")] == [
            "feature/faster",
            "date",
            "log",
        ]
        assert "txt2img" in page.input_value("#test")


def test_environments_are_switched_and_never_mixed(reports: Reports, opened: Open) -> None:
    with opened(reports.folder / "index.html", "#branch=*") as page:
        _choose(page, "#test", "img2img")
        assert page.locator("#environment option").count() == 2
        _choose(page, "#environment", "H100")
        page.select_option("#branch", "*")
        assert page.inner_text("#shown").startswith(f"{COMMITS // 2} runs")
        _choose(page, "#environment", "RTX 4090")
        page.select_option("#branch", "*")
        assert page.inner_text("#shown").startswith(f"{COMMITS} runs")


def test_the_verdict_leads_to_its_scenario(trend: Any, opened: Open) -> None:
    with opened(trend) as page:
        page.click(".scenario.missing > summary")
        page.click(".scenario.missing a.history")
        _until(page, "document.getElementById('test').value.includes('inpainting')")


def test_scenarios_are_searched_and_filtered(trend: Any, opened: Open) -> None:
    with opened(trend) as page:
        page.fill("#filter-words", "h100 img2img")
        assert page.inner_text("#filter-count") == "1 of 4 scenarios"
        assert page.locator(".scenario:visible").count() == 1  # the collapsed ones are opened
        state = _state(page)
    with opened(trend, state) as page:
        assert page.input_value("#filter-words") == "h100 img2img"
        page.fill("#filter-words", "")
        page.uncheck("#filters input[value=missing]")
        assert page.inner_text("#filter-count") == "3 of 4 scenarios"
        assert page.locator(".scenario.missing:visible").count() == 0


def test_behind_each_chart_is_a_table(trend: Any, opened: Open) -> None:
    with opened(trend, "#branch=*") as page:
        _choose(page, "#test", "txt2img")
        page.select_option("#branch", "*")
        page.click("#panel-generation summary")
        rows = page.locator("#panel-generation tbody tr")
        rows.first.wait_for()
        assert rows.count() == COMMITS
        assert page.locator("#panel-generation thead th").all_inner_texts()[4:7] == ["p50", "p95", "p99"]
        assert " s" in rows.first.inner_text()


def test_the_data_can_be_taken_along(reports: Reports, opened: Open) -> None:
    with opened(reports.folder / "index.html") as page:
        _choose(page, "#test", "txt2img")
        page.select_option("#branch", "*")
        with page.expect_download() as download:
            page.click("#csv")
        rows = list(csv.DictReader(io.StringIO(download.value.path().read_text(encoding="utf-8"))))
        assert len(rows) == COMMITS
        assert float(rows[-1]["generation_time.p50"]) > 2.5
        with page.expect_download() as download:
            page.click("#json")
        data = json.loads(download.value.path().read_text(encoding="utf-8"))
        assert len(data["runs"]) == COMMITS
        assert data["simulated"] is False


def test_a_text_in_the_csv_is_no_formula(hostile_reports: Reports, opened: Open) -> None:
    with opened(hostile_reports.folder / "index.html", "#branch=*") as page:
        with page.expect_download() as download:
            page.click("#csv")
        for row in csv.reader(io.StringIO(download.value.path().read_text(encoding="utf-8"))):
            assert not [cell for cell in row if cell[:1] in "=@\t" and cell]


def test_everything_is_reached_by_keyboard(reports: Reports, opened: Open) -> None:
    with opened(reports.folder / "index.html", "#branch=*") as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        _until(page, "document.activeElement.getBoundingClientRect().top >= 0")
        reached = set()
        for _ in range(120):
            page.keyboard.press("Tab")
            name = page.evaluate(
                "((e) => e.id || e.closest('[data-panel]')?.dataset.panel + ' ' + e.className)(document.activeElement)"
            )
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none" or name.startswith("undefined"), name
            reached.add(name)
        for name in ("test", "branch", "spacing", "scale", "csv", "json", "generation plot", "failures plot"):
            assert name in reached
        page.focus(GENERATION)
        page.wait_for_selector(f"{GENERATION}{DRAWN}")
        page.keyboard.press("ArrowRight")
        first = page.inner_text("#tip")
        page.keyboard.press("ArrowRight")
        assert page.inner_text("#tip") != first
        page.keyboard.press("+")
        _until(page, "location.hash.includes('from=')")
        page.keyboard.press("Escape")
        _until(page, "!location.hash.includes('from=')")
        page.keyboard.press("End")
        page.keyboard.press("Enter")
        page.wait_for_url("**/commits/*.html")


def test_a_narrow_screen_needs_no_scrolling_sideways(reports: Reports, opened: Open) -> None:
    for path in reports.pages:
        with opened(path, width=390) as page:
            if page.locator(".plot").count():
                page.locator(".plot").first.scroll_into_view_if_needed()
                page.wait_for_selector(DRAWN)
            for summary in page.locator("summary:visible").all():
                summary.click()
            assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_charts_have_the_colours_of_the_scheme_at_once(trend: Any, opened: Open) -> None:
    line = f"getComputedStyle(document.querySelector('{GENERATION} path[fill=none]')).stroke"
    with opened(trend, scheme="light") as page:
        _drawn(page)
        light = page.evaluate(line)
        page.emulate_media(color_scheme="dark")
        _until(page, f"{line} !== '{light}'")


def test_a_finger_tells_first_and_opens_with_the_second_touch(reports: Reports, chromium: Any) -> None:
    context = chromium.new_context(viewport={"width": 390, "height": 800}, has_touch=True)
    page = context.new_page()
    page.goto((reports.folder / "index.html").as_uri())
    box = _drawn(page)
    place = (box["x"] + box["width"] - 20, box["y"] + 80)
    page.touchscreen.tap(*place)
    page.wait_for_selector("#tip:visible")
    assert page.url.partition("#")[0].endswith("index.html")
    page.touchscreen.tap(*place)
    page.wait_for_url("**/commits/*.html")
    context.close()


def test_on_paper_there_are_the_scenarios_and_all_series_and_no_controls(trend: Any, opened: Open) -> None:
    with opened(trend) as page:
        page.emulate_media(media="print")
        assert page.locator(".scenario .spark:visible").count() == 2
        assert page.locator(".cards .spark:visible").count() == 4
        for hidden in ("#controls", "#history", "#filters", ".plot"):
            assert page.locator(f"{hidden}:visible").count() == 0


def test_a_row_leads_to_its_comparison_and_on_to_the_other_bases(reports: Reports, opened: Open) -> None:
    with opened(reports.folder / "index.html") as page:
        page.click(".scenario.suspected > summary")
        page.click(".scenario.suspected a.compare")
        page.wait_for_url("**/compare/*-before.html")
        assert "two more decide" in page.inner_text(".headline")
        assert "KSampler" in page.inner_text(".waterfall")
        assert page.locator(".forest:visible svg circle").count() > 5
        assert page.locator(".ecdf:visible .curve").count() == 6
        page.click(".bases a:not([aria-current])")
        page.wait_for_url("**/compare/*-best.html")


def test_the_single_file_opens_any_of_the_last_commits(reports: Reports, opened: Open) -> None:
    with opened(reports.single) as page:
        _drawn(page)
        assert page.locator(".earlier table:visible").count() == 0
        page.focus(GENERATION)
        page.keyboard.press("Home")
        page.keyboard.press("Enter")
        _until(page, "document.querySelector('.earlier details[open] table') !== null")
        assert page.locator(f".earlier {_state(page)} table:visible").count() == 1


def test_the_single_file_compares_the_newest_runs_too(reports: Reports, opened: Open) -> None:
    with opened(reports.single) as page:
        page.click(".scenario.suspected > summary")
        page.click(".scenario.suspected a.compare")
        _until(page, "location.hash.startsWith('#compare-')")
        target = page.locator("article.comparison:target")
        assert "two more decide" in target.locator(".headline").inner_text()


def test_pictures_of_two_sides_are_slid_over_each_other(tmp_path: Path, opened: Open) -> None:
    store = Store.open(tmp_path / "store")
    for number, colour in enumerate(("navy", "olive", "teal")):
        store.add(with_pictures(record(number, come={"branch": "main", "session": str(number)}), colour))
    write_site(Content(store, tmp_path), tmp_path / "site")
    (comparison,) = (tmp_path / "site" / "compare").glob("00002-*-before.html")
    with opened(comparison) as page:
        assert page.locator(".pair-of [role=img]").count() == 6
        page.locator(".slider input").first.fill("80")
        assert page.evaluate("document.querySelector('.slider .b').style.getPropertyValue('--at')") == "80%"


def test_hostile_texts_never_run(hostile_reports: Reports, opened: Open) -> None:
    commits = sorted((hostile_reports.folder / "commits").glob("*.html"))
    for path in [*hostile_reports.pages, *commits[-12:-1:3]]:
        with opened(path) as page:
            page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
            for plot in page.locator(".plot:visible").all()[:4]:
                plot.scroll_into_view_if_needed()
                page.wait_for_timeout(50)
                plot.focus()
                for key in ("End", "ArrowLeft", "ArrowLeft"):
                    page.keyboard.press(key)
            if page.locator("#test").count():
                page.locator("#test").scroll_into_view_if_needed()
                page.select_option("#test", index=page.locator("#test option").count() - 1)
            page.wait_for_timeout(50)
            assert page.evaluate("window.pwned") is None
            assert page.locator("iframe, img").count() == 0


def test_a_violated_bound_far_below_the_data_is_within_the_chart(tmp_path: Path, opened: Open) -> None:
    write_site(Content(scripted_store(tmp_path / "store"), tmp_path), tmp_path / "site")
    with opened(tmp_path / "site" / "index.html") as page:
        _choose(page, "#test", "upscale")
        plot = "#panel-total .plot"
        _drawn(page, plot)
        low, high = page.evaluate(f"document.querySelector('{plot}').chart.vertical")
        assert low <= 5 < 60 < high
        assert "SLO p95 < 5 s" in page.inner_text("#panel-total .legend")
        # Two commits have dates from years before, as after a rebase: the axis follows the history.
        page.select_option("#spacing", "date")
        _drawn(page, plot)
        x = page.evaluate(f"document.querySelector('{plot}').chart.spec.x")
        assert x == sorted(x)
        assert x[-1] - x[0] < 30 * 86_400_000
