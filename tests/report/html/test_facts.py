"""The pages agree with `comfyload export`: figures read from the pages' text and from the exported JSON."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from pytest_comfyload.cli import app
from tests.report.html.conftest import Scripted
from tests.report.html.scripted import COMMITS

if TYPE_CHECKING:
    from playwright.sync_api import Page

Open = Callable[..., AbstractContextManager["Page"]]
Runs = list[dict[str, Any]]
# Figures are written with three significant digits.
WRITTEN = 0.005


@pytest.fixture(scope="module")
def site(scripted: Scripted) -> Path:
    return scripted.site


@pytest.fixture(scope="module")
def exported(scripted: Scripted) -> Runs:
    said = CliRunner().invoke(app, ["export", "--store", str(scripted.store)])
    runs: Runs = json.loads(said.stdout)["runs"]
    return sorted(runs, key=lambda run: run["time"])


def _tests(exported: Runs) -> Runs:
    return [run for run in exported if not run["facts"].get("half")]


def _of_head(exported: Runs, kind: str, *, gpu: str = "4090") -> dict[str, Any]:
    return _of(exported, kind, gpu)[-1]


def _of(exported: Runs, kind: str, gpu: str = "4090") -> Runs:
    return [run for run in _tests(exported) if f"test_{kind}.py" in run["facts"]["title"] and gpu in _gpu(run)]


def _gpu(run: dict[str, Any]) -> str:
    return str(run["environment"]["gpu"])


def _number(text: str, pattern: str = r"") -> float:
    found = re.search(pattern + r"([\d.]+|∞)", text)
    assert found is not None, (pattern, text)
    return math.inf if found[1] == "∞" else float(found[1])


def _row(page: Page, kind: str, gpu: str = "4090") -> str:
    row = page.locator("details.scenario").filter(has_text=f"{kind} · test_slo").filter(has_text=gpu).first
    return row.inner_text()


def test_the_overview(site: Path, exported: Runs, opened: Open) -> None:
    memory, upscale = _of_head(exported, "inpainting"), _of_head(exported, "upscale")
    with opened(site / "index.html") as page:
        headline = page.locator(".headline").inner_text()
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        # 1. The commit, 2. what ran out of memory, 3. the SLO that was missed.
        newest = _tests(exported)[-1]["provenance"]
        assert f"{newest['commit'][:10]} “{newest['title']}”" in headline
        oom, prompts = memory["figures"]["errors"]["oom"], memory["figures"]["prompts"]
        assert f"{oom} of {prompts} prompts ran out of memory" in headline
        p95 = upscale["figures"]["total_time"]["p95"]
        assert _number(headline, r"total_time\.p95 < 5 s failed: ") == pytest.approx(p95, rel=WRITTEN)
        # 4. How many SLOs of each scenario were met.
        for kind in ("txt2img", "img2img", "inpainting", "upscale"):
            run = _of_head(exported, kind)
            checks = [check for test in run["checks"] for check in test["checks"]]
            unreached = sum(len(test.get("unreached", ())) for test in run["checks"])
            met = sum(check["passed"] for check in checks)
            dots = page.locator("details.scenario").filter(has_text=f"{kind} · test_slo").filter(has_text="4090")
            label = dots.first.locator(".dots").get_attribute("aria-label")
            assert label == f"{met} of {len(checks) + unreached} SLOs met"
        # 5. The newest figure of each series, on both GPUs.
        for kind, gpu in (("txt2img", "4090"), ("img2img", "4090"), ("img2img", "H100"), ("upscale", "4090")):
            card = page.locator(".cards li").filter(has_text=f"{kind} · test_slo").filter(has_text=gpu)
            p50 = _of_head(exported, kind, gpu=gpu)["figures"]["generation_time"]["p50"]
            assert _number(card.inner_text(), r"generation_time\.p50 ") == pytest.approx(p50, rel=WRITTEN)


def test_the_page_of_a_commit(site: Path, exported: Runs, opened: Open) -> None:
    commit = _tests(exported)[-1]["provenance"]["commit"]
    head = [run for run in _tests(exported) if run["provenance"]["commit"] == commit]
    path = site / "commits" / f"{commit[:12]}.html"
    with opened(path) as page:
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert page.locator("article.run").count() == len(head)
        for run in head:
            figures = run["figures"]
            own = page.locator("code", has_text=re.compile(f"^{run['run_id']}$"))
            article = page.locator("article.run").filter(has=own)
            facts = dict(
                zip(
                    article.locator("dl.facts dt").all_inner_texts(),
                    article.locator("dl.facts dd").all_inner_texts(),
                    strict=True,
                )
            )
            # 1. Prompts, 2. throughput, 3. total and 4. generation time, 5. the time of a node class.
            succeeded = figures["prompts"] - sum(figures["errors"].values())
            assert facts["prompts"] == f"{succeeded} of {figures['prompts']} succeeded"
            assert _number(facts["throughput"]) == pytest.approx(figures["throughput"], rel=WRITTEN)
            for name in ("total", "generation"):
                p50, p95 = map(_number, facts[f"{name} p50 / p95"].split("/"))
                times = figures[f"{name}_time"]
                expected = [float(str(times[each]).replace("Infinity", "inf")) for each in ("p50", "p95")]
                assert [p50, p95] == pytest.approx(expected, rel=WRITTEN)
            sampler = article.locator("table.nodes tr").filter(has_text="KSampler").first.locator("td")
            node = figures["node_time"]["KSampler"]
            assert int(sampler.nth(0).inner_text()) == node["n"]
            assert _number(sampler.nth(1).inner_text()) == pytest.approx(node["p50"], rel=WRITTEN)


def test_the_trend(site: Path, exported: Runs, opened: Open) -> None:
    runs = _of(exported, "txt2img")
    assert len(runs) == COMMITS
    memory = [float(run["figures"]["errors"].get("oom", 0)) for run in _of(exported, "inpainting")]
    panels = {
        "generation": ("p50", [run["figures"]["generation_time"]["p50"] for run in runs]),
        "total": ("p95", [run["figures"]["total_time"]["p95"] for run in runs]),
        "queue": ("p50", [run["figures"]["queue_time"]["p50"] for run in runs]),
        "throughput": ("", [run["figures"]["throughput"] for run in runs]),
        "failures": ("out of memory", memory),
    }
    with opened(site / "index.html", "#branch=*") as page:
        for panel, (column, expected) in panels.items():
            kind = "inpainting" if panel == "failures" else "txt2img"
            option = page.locator("#test option").filter(has_text=kind).first.get_attribute("value")
            page.select_option("#test", option)
            page.select_option("#branch", "*")
            # The order differs from that of the history, as two commits have old dates.
            assert sorted(_column(page, panel, column)) == pytest.approx(sorted(expected), rel=WRITTEN, abs=1e-4), panel


def _column(page: Page, panel: str, title: str) -> list[float]:
    """Return a column of the table behind a chart, with 0 for missing values."""
    box = page.locator(f"#panel-{panel}")
    if not box.locator("table").count():
        box.locator("summary").click()
    box.locator("tbody tr").first.wait_for()
    titles = box.locator("thead th").all_inner_texts()
    place = titles.index(title) if title else 4
    rows = box.locator("tbody tr").all()
    cells = [row.locator("th, td").nth(place).inner_text() for row in rows]
    return [_number(cell) if re.search(r"[\d∞]", cell) else 0.0 for cell in cells]


def test_an_ab_comparison(site: Path, exported: Runs, opened: Open) -> None:
    halves = [run for run in exported if run["facts"].get("half")]
    sides = {side: [run for run in halves if run["facts"]["half"]["side"] == side] for side in "AB"}
    with opened(site / "index.html") as page:
        box = page.locator(".comparisons details").first
        text, rows = box.inner_text(), box.locator("tbody tr").all()
        # 1. The pairs; 2. to 5. both medians and the ratio of each figure.
        assert f"{len(sides['A'])} interleaved pairs" in text
        told = {row.locator("code").inner_text(): row.locator("td").all_inner_texts() for row in rows}
        for name, path in {
            "generation_time.p50": ("generation_time", "p50"),
            "total_time.p95": ("total_time", "p95"),
            "throughput": ("throughput",),
            "queue_time.p50": ("queue_time", "p50"),
        }.items():
            a, b = ([_figure(run, *path) for run in sides[side]] for side in "AB")
            ratio = math.exp(statistics.fmean(math.log(y / x) for x, y in zip(a, b, strict=True)))
            expected = [statistics.median(a), statistics.median(b), ratio]
            assert list(map(_number, told[name][:3])) == pytest.approx(expected, rel=WRITTEN, abs=WRITTEN), name


def _figure(run: dict[str, Any], *path: str) -> float:
    value: Any = run["figures"]
    for name in path:
        value = value[name]
    return float(value)
