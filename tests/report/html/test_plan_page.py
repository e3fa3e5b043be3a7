"""The page of a capacity plan: charts with a table behind each; hostile names in it do nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_comfyload.capacity.evaluation import Evaluation
from pytest_comfyload.capacity.gpus import GpuFile, shipped_gpus
from pytest_comfyload.capacity.plan_answer import (
    CapacityPlan,
    ChangedInput,
    CurvePoint,
    Offer,
    PeopleCurve,
    PlanQuestion,
    StrategyRow,
)
from pytest_comfyload.capacity.service_fit import of_figures
from pytest_comfyload.capacity.workload import Workload
from pytest_comfyload.metrics.slo import Slo
from pytest_comfyload.report.plan_lines import plan_lines
from tests.report.html.test_pages import Document

HOSTILE = "</script><img src=x onerror=pwned=1>"
GPUS = GpuFile.parse(shipped_gpus(), "gpus.toml")


def _evaluation(gpus: int, p95: float, cost: float | None) -> Evaluation:
    return Evaluation(
        gpus=gpus, days=40, days_held=39, p50=10.0, p95=p95, p99=2 * p95, p95_busiest=p95, utilization=0.1,
        utilization_busiest=0.2, paid_over_busy=10.0, paid_per_day=86_400.0 * gpus,
        cost_per_day=None if cost is None else 500 * cost, cost_per_image=cost, wh_per_image=None, wh_is_bound=False,
    )  # fmt: skip


def _plan(slo: str = "total_time.p95 < 60", cost: float | None = 0.03) -> CapacityPlan:
    services = of_figures("rtx4090", None, GPUS)
    workload = Workload(50, 500)
    rows = (
        StrategyRow("queue", "one queue", services.title, _evaluation(1, 28.0, cost), 90, "the queue", "short", "idle"),
        StrategyRow("serverless", "cold", services.title, None, None, HOSTILE),
    )
    question = PlanQuestion(workload=workload, slo=Slo.parse(slo), services=(services,), gpus=GPUS)
    offers = (Offer("NVIDIA L4", 2, 40.0, 20.0, None), Offer(HOSTILE, remark="unknown: measure one run"))
    return CapacityPlan(
        question, rows, rows[0], offers, (ChangedInput("20 % slower", None),), (HOSTILE,), (f"note {HOSTILE}",)
    )


def _curve(gpus: int, knee: int) -> PeopleCurve:
    people = sorted({50, *(int(share * knee) for share in (0.2, 0.8, 1.0, 1.3))})
    points = [CurvePoint(each, 20.0 + each * 40 / knee, 40, 0.03 * gpus) for each in people]
    return PeopleCurve(gpus, knee, gpus > 1, tuple(points))


CURVES = (_curve(1, 90), _curve(2, 310))


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return _written(tmp_path, _plan(), CURVES)


def _written(folder: Path, plan: CapacityPlan, curves: tuple[PeopleCurve, ...]) -> Path:
    pytest.importorskip("jinja2")
    from pytest_comfyload.report.html.plan_page import write_plan

    write_plan(plan, curves, folder / "pages" / "plan.html")
    return folder / "pages" / "plan.html"


def _data(page: Path) -> Any:
    found = re.search(r'id="plan-data">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return json.loads(found[1])


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_a_terminal_gets_the_columns_that_fit_and_the_names_of_the_others(width: int) -> None:
    table = plan_lines(_plan(), width)[2:]
    head = table[0]
    assert len(head) <= width
    for name in ("strategy", "run as", "GPUs", "p95", "people", "$ an image"):
        assert name in head
    others = next((line for line in table if line.startswith("(in a wider terminal")), "")
    assert ("paid÷busy" in head) != ("paid÷busy" in others)


def test_without_a_width_all_columns_are_there() -> None:
    assert plan_lines(_plan())[2].endswith("Wh an image  paid÷busy")


def test_it_has_every_part_of_the_plan(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert Document(text).open == []
    for part in (
        "1 × NVIDIA GeForce RTX 4090 (one queue) can serve 50 people",
        "NOT MEASURED",
        "<td>knee of 1 </td>",
        '<td class="n">≥310</td>',
        '<td class="n">no number is enough</td>',
        "unknown: measure one run",
    ):
        assert part in text
    data = _data(page)
    assert (data["people"], data["bound"]) == (50, 60.0)
    assert [(curve["gpus"], curve["knee"], curve["margin"]) for curve in data["curves"]] == [(1, 90, 72), (2, 310, 248)]
    assert [(cost["label"], cost["kind"]) for cost in data["costs"]] == [
        ("2 × RTX 4090, one queue", "more GPUs"),
        ("1 × RTX 4090, one queue", "strategy"),
        ("2 × L4, one queue", "another GPU"),
    ]


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    plan = _plan("queue_time.mean < 5", cost=None)
    unknown = replace(plan, offers=())
    text = _written(tmp_path, unknown, ()).read_text(encoding="utf-8")
    assert "No price of these GPUs is known" in text
    assert "No number of GPUs meets the SLO" in text
    assert _data(tmp_path / "pages" / "plan.html")["bound"] is None


def test_charts_are_drawn_and_tell_by_keyboard(page: Path, opened: Callable[..., Any]) -> None:
    for width, scheme in ((1280, "light"), (390, "dark")):
        with opened(page, width=width, scheme=scheme) as shown:
            assert shown.evaluate("document.documentElement.scrollWidth") <= width
            for chart, said in (("people", "90 people"), ("cost", "RTX 4090, one queue")):
                plot = shown.locator(f'[data-chart="{chart}"] .plot')
                plot.scroll_into_view_if_needed()
                shown.wait_for_selector(f'[data-chart="{chart}"] .plot[data-drawn]')
                plot.focus()
                seen = []
                shown.keyboard.press("Home")
                for _ in range(9):
                    seen.append(shown.inner_text("#tip"))
                    shown.keyboard.press("ArrowRight")
                assert any(said in each for each in seen), seen
            shown.locator('[data-chart="people"] summary').click()
            assert "80 % of the knee of 2" in shown.inner_text('[data-chart="people"] table')
            assert shown.evaluate("window.pwned") is None
            assert shown.locator("img").count() == 0
