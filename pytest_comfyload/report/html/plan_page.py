"""The page of a capacity plan: charts of p95 against people and of cost against p95, and the tables of the plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from pytest_comfyload.capacity.plan_answer import CapacityPlan, PeopleCurve
from pytest_comfyload.metrics.slo import Slo
from pytest_comfyload.metrics.units import format_value
from pytest_comfyload.report.html.encoding import figure
from pytest_comfyload.report.html.page import Pages
from pytest_comfyload.report.plan_lines import changes, offer_table, plan_table, sentence, short

__all__ = ["write_plan"]


def write_plan(plan: CapacityPlan, curves: Sequence[PeopleCurve], path: Path) -> None:
    """Write one self-contained file. Raises: UsageError if a library is missing; OSError."""
    text = Pages(("common.js", "chart.js", "plan.js")).render(
        "plan.html.j2",
        None,
        title="Capacity plan",
        single=True,
        plan=plan,
        sentence=sentence(plan),
        facts=_facts(plan),
        strategies=plan_table(plan),
        offers=offer_table(plan),
        changes=changes(plan),
        curves=curves,
        people=sorted({point.people for curve in curves for point in curve.points}),
        seconds=partial(format_value, unit="s"),
        data=_data(plan, curves),
        generated=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="replace", newline="\n")


def _facts(plan: CapacityPlan) -> list[tuple[str, str]]:
    question, workload = plan.question, plan.question.workload
    people = [("people", f"{workload.people:,}")] if workload.recorded is None else [("trace", workload.day.name)]
    return [
        *people,
        ("images a day", f"{workload.images_per_day:,.0f}"),
        ("SLO", str(question.slo)),
        ("on so many days", f"{question.share:.0%}"),
        ("day profile", workload.day.name),
        ("how people work", workload.style.name),
        ("service times", "measured" if question.services[0].measured else "not measured"),
    ]


def _bound(slo: Slo) -> float | None:
    """Return the SLO's bound on the p95 of the total time, in seconds; None if it has none."""
    return next((each.bound for each in slo.conditions if (each.metric, each.q) == ("total_time", 95.0)), None)


def _costs(plan: CapacityPlan, curves: Sequence[PeopleCurve]) -> Iterator[dict[str, Any]]:
    """Yield the cost per image and the p95 of each way to serve the people, without duplicates."""
    question = plan.question
    own, seen = question.services[0].title, set()
    for row in plan.rows:
        found = row.evaluation
        if found is not None and found.cost_per_image is not None:
            seen.add((row.gpu, found.gpus, found.p95))
            label = f"{found.gpus} × {short(row.gpu)}, {row.title}"
            yield _cost(label, "strategy", found.p95, found.cost_per_image)
    for curve in curves:
        now = curve.at(question.workload.people)
        if now is not None and now.cost_per_image is not None and (own, curve.gpus) not in {each[:2] for each in seen}:
            yield _cost(f"{curve.gpus} × {short(own)}, one queue", "more GPUs", now.p95, now.cost_per_image)
    for offer in plan.offers:
        if offer.p95 is not None and offer.dollars is not None and (offer.gpu, offer.gpus, offer.p95) not in seen:
            label = f"{offer.gpus} × {short(offer.gpu)}, one queue"
            yield _cost(label, "another GPU", offer.p95, offer.dollars / 1000)


def _cost(label: str, kind: str, p95: float, dollars: float) -> dict[str, Any]:
    return {"label": label, "kind": kind, "p95": figure(p95), "dollars": figure(dollars)}


def _data(plan: CapacityPlan, curves: Sequence[PeopleCurve]) -> dict[str, Any]:
    return {
        "people": plan.question.workload.people,
        "bound": _bound(plan.question.slo),
        "costs": sorted(_costs(plan, curves), key=lambda cost: (isinstance(cost["p95"], str), cost["p95"])),
        "curves": [
            {
                "gpus": curve.gpus,
                "knee": curve.knee,
                "margin": curve.margin,
                "people": [point.people for point in curve.points],
                "p95": [figure(point.p95) for point in curve.points],
            }
            for curve in curves
        ],
    }
