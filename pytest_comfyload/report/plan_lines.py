"""A capacity plan as text: one sentence, the table of strategies, what it is based on, what would change it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_comfyload.capacity.evaluation import Evaluation
from pytest_comfyload.capacity.plan_answer import CapacityPlan, Offer, StrategyRow
from pytest_comfyload.metrics.units import format_value

__all__ = ["changes", "offer_table", "plan_lines", "plan_table", "sentence", "short"]

_HEAD = (
    "strategy", "run as", "GPUs", "p50", "p95", "p99", "busiest p95", "days held", "busy day", "busiest", "people",
    "$ a day", "$ an image", "Wh an image", "paid÷busy",
)  # fmt: skip
# The columns that a narrow terminal does without, the least important first.
_OPTIONAL = ("paid÷busy", "Wh an image", "busy day", "busiest", "p99", "p50", "busiest p95", "$ a day", "days held")


def plan_lines(plan: CapacityPlan, width: int | None = None) -> list[str]:
    """Return the whole plan as lines; the table has only the columns that fit into `width` columns of a terminal."""
    return [sentence(plan), "", *_table_lines(plan_table(plan), width), "", *_details(plan)]


def sentence(plan: CapacityPlan) -> str:
    """Return the answer in one sentence."""
    workload, question = plan.question.workload, plan.question
    people = "1 person" if workload.people == 1 else f"{workload.people} people"
    who = f"{people} ({workload.images_per_day:,.0f} images a day)"
    if workload.recorded is not None:
        who = f"the arrivals of {workload.day.name} ({workload.images_per_day:,.0f} images a day)"
    if plan.best is None or plan.best.evaluation is None:
        return f"No number of {question.services[0].title} meets {question.slo} for {who}: {plan.rows[0].breaks}."
    found = plan.best.evaluation
    cost = (
        ""
        if found.cost_per_day is None
        else f"; {_dollars(found.cost_per_day)} a day, {_dollars(found.cost_per_image)} an image"
    )
    most = "Up to " if plan.best.strategy == "serverless" else ""
    fleet = f"{most}{found.gpus} × {plan.best.gpu} ({plan.best.title})"
    return (
        f"{fleet} can serve {who}: p95 {_seconds(found.p95)}, {question.slo} met on {found.days_held} of {found.days} "
        f"days; {found.utilization_busiest:.0%} utilized in the busiest hour{cost}."
    )


def plan_table(plan: CapacityPlan) -> list[tuple[str, ...]]:
    """Return the heading and a row for each strategy; without figures if no number of GPUs meets the SLO."""
    return [_HEAD, *(_cells(row) for row in plan.rows)]


def _cells(row: StrategyRow) -> tuple[str, ...]:
    found, titles = row.evaluation, (row.strategy, row.title)
    if found is None:
        return (*titles, row.breaks)
    return (
        *titles,
        _gpus(row, found),
        *map(_seconds, (found.p50, found.p95, found.p99, found.p95_busiest)),
        f"{found.days_held}/{found.days}",
        f"{found.utilization:.0%}",
        f"{found.utilization_busiest:.0%}",
        "scales" if row.strategy == "serverless" else _people(row),
        _dollars(found.cost_per_day),
        _dollars(found.cost_per_image),
        _energy(found.wh_per_image, bound=found.wh_is_bound),
        f"{found.paid_over_busy:.3g}",
    )


def _gpus(row: StrategyRow, found: Evaluation) -> str:
    return f"{'≤' if row.strategy == 'serverless' else ''}{found.gpus} × {short(row.gpu)}"


def _people(row: StrategyRow) -> str:
    return "–" if row.people_held is None else f"{'≥' if row.held_at_least else ''}{row.people_held}"


def short(gpu: str) -> str:
    """Return a GPU's name without the manufacturer and brand."""
    return gpu.removeprefix("NVIDIA ").removeprefix("GeForce ")


def _details(plan: CapacityPlan) -> Iterator[str]:
    for row in plan.rows:
        if row.evaluation is not None:
            yield f"{row.strategy}, {row.title}: + {row.pros}; − {row.cons}; first limit: {row.breaks}"
    if plan.offers:
        yield ""
        yield "best value, one queue at the same SLO, 1,000 images:"
        yield from (f"  {_offer(each)}" for each in plan.offers)
    yield ""
    yield "based on:"
    yield from (f"  {line}" for line in plan.stands_on)
    (_, now), *changed = changes(plan)
    yield f"what would change the answer (GPUs behind one queue; now {now}):"
    yield "  " + "; ".join(f"{what}: {gpus}" for what, gpus in changed)
    yield from plan.notes


def changes(plan: CapacityPlan) -> list[tuple[str, str]]:
    """Return the number of GPUs needed behind one queue: first as asked, then for each changed input."""
    now = next((row.evaluation.gpus for row in plan.rows if row.strategy == "queue" and row.evaluation), None)
    numbers = [("as asked", now), *((each.what, each.gpus) for each in plan.changes)]
    return [(what, "no number is enough" if gpus is None else str(gpus)) for what, gpus in numbers]


def offer_table(plan: CapacityPlan) -> list[tuple[str, ...]]:
    """Return a row for each kind of GPU: name, number needed, p95, dollars and Wh per 1,000 images, remark."""
    return [
        (
            short(each.gpu),
            "–" if each.gpus is None else str(each.gpus),
            "–" if each.p95 is None else _seconds(each.p95),
            "–" if each.gpus is None else _dollars(each.dollars),
            "–" if each.gpus is None else _energy(each.watt_hours, bound=each.wh_is_bound),
            each.remark,
        )
        for each in plan.offers
    ]


def _offer(offer: Offer) -> str:
    if offer.gpus is None:
        return f"{short(offer.gpu)}: {offer.remark}"
    figures = [f"{offer.gpus} needed"]
    if offer.dollars is not None:
        figures.append(_dollars(offer.dollars))
    if offer.watt_hours is not None:
        figures.append(_energy(offer.watt_hours, bound=offer.wh_is_bound) + " Wh")
    return f"{short(offer.gpu)}: {', '.join(figures)}" + (f" ({offer.remark})" if offer.remark else "")


def _table_lines(table: Sequence[Sequence[str]], width: int | None) -> Iterator[str]:
    whole = [row for row in table if len(row) == len(_HEAD)]
    widths = {name: max(len(row[k]) for row in (table if k < 2 else whole)) for k, name in enumerate(_HEAD)}
    left_out = []
    for name in _OPTIONAL:
        if width is None or sum(widths.values()) + 2 * (len(widths) - 1) <= width:
            break
        del widths[name]
        left_out.append(name)
    for row in table:
        cells = dict(zip(_HEAD, row, strict=False))
        left = [cells[name].ljust(widths[name]) for name in _HEAD[:2]]
        right = [cells[name].rjust(widths[name]) for name in _HEAD[2:] if name in widths and name in cells]
        yield "  ".join([*left, *(right if len(row) == len(_HEAD) else row[2:])]).rstrip()
    if left_out:
        yield f"(in a wider terminal, --html or --json: {', '.join(reversed(left_out))})"


def _seconds(value: float) -> str:
    return format_value(value, "s")


def _dollars(value: float | None) -> str:
    return "?" if value is None else f"${value:,.2f}" if value >= 0.1 else f"${value:.2g}"


def _energy(value: float | None, *, bound: bool) -> str:
    if value is None:
        return "?"
    return ("≤" if bound else "") + (f"{value:,.0f}" if value >= 100 else f"{value:.3g}")
