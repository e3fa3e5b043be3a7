"""Capacity plans: how many GPUs, of which kind and run how, a number of people need, and what that is based on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pytest_comfyload.capacity.evaluation import Evaluation, Strategy, Variant
from pytest_comfyload.capacity.gpus import GpuKind, RuleOfThumb, age_of
from pytest_comfyload.capacity.plan_answer import (
    CapacityPlan,
    ChangedInput,
    CurvePoint,
    Offer,
    PeopleCurve,
    PlanQuestion,
    StrategyRow,
)
from pytest_comfyload.capacity.service_fit import GpuServices
from pytest_comfyload.capacity.sizing import Sizer
from pytest_comfyload.capacity.strategies import VARIANTS, serverless
from pytest_comfyload.capacity.workload import Workload, WorkStyle
from pytest_comfyload.errors import UsageError
from pytest_comfyload.result.columns import collector_paused

__all__ = ["curves", "make_plan"]

# Serverless workers are turned off after this many idle seconds.
IDLE = 120.0
# The points of a curve, as shares of the most people that can be served.
SHARES_OF_KNEE = (0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35)


def make_plan(question: PlanQuestion) -> CapacityPlan:
    """Size each strategy for the question. Raises: UsageError if the workload, or its memory need, is too large."""
    question.workload.check_size()
    _check_memory(question, question.services[0])
    with collector_paused():  # it would find nothing among millions of prompts
        return _plan(question)


def _plan(question: PlanQuestion) -> CapacityPlan:
    sizer = Sizer(question.workload, question.slo, question.share)
    rows = tuple(_rows(question, sizer))
    good = [row for row in rows if row.evaluation is not None]
    best = min(good, key=_rank, default=None)
    return CapacityPlan(
        question,
        rows,
        best,
        tuple(_offers(question, sizer)),
        tuple(_changes(question, sizer)),
        tuple(_stands_on(question, sizer)),
        tuple(_notes(question, rows)),
    )


def _check_memory(question: PlanQuestion, services: GpuServices) -> None:
    gpu = question.gpu_of(services)
    if gpu is not None and not _memory_holds(question, services):
        raise UsageError(
            f"{gpu.name} has {gpu.vram_gb:g} GB of memory, and {', '.join(question.workload.mix)} needs "
            f"{services.needs_gb:g} GB or more; choose a GPU with more"
        )


def _memory_holds(question: PlanQuestion, services: GpuServices) -> bool:
    gpu = question.gpu_of(services)
    return gpu is None or gpu.vram_gb >= (services.needs_gb or 0.0)


def _rows(question: PlanQuestion, sizer: Sizer) -> list[StrategyRow]:
    base = question.services[0]
    cold = serverless(base.start + base.model_load, IDLE)
    rows = [
        _row(question, sizer, base, variant)
        for variant in (*VARIANTS, cold)
        if question.strategy == variant.strategy or (question.strategy is None and variant.main)
    ]
    if question.strategy in (None, "vertical"):
        rows.insert(0, _vertical(question, sizer, rows))
    return rows


def _vertical(question: PlanQuestion, sizer: Sizer, rows: Sequence[StrategyRow]) -> StrategyRow:
    """Size the fastest GPU that has a figure: a stronger GPU instead of several."""
    mix, base = question.workload.mix, question.services[0]
    able = [each for each in question.services if _memory_holds(question, each)]
    strongest = min(able, key=lambda each: each.mean(mix))
    if len(able) == 1:
        nothing = "unknown: no other GPU has a figure for this workload; repeat --from-run with a run on another GPU"
        return StrategyRow("vertical", "a stronger GPU", "?", None, None, nothing)
    if strongest is base:
        same = next((row for row in rows if row.strategy == "queue"), None) or _row(question, sizer, base, VARIANTS[0])
        return replace(same, strategy="vertical", title="the strongest known")
    row = _row(question, sizer, strongest, VARIANTS[0], strategy="vertical")
    return replace(row, title=f"{base.mean(mix) / strongest.mean(mix):.2g}× as fast")


def _row(
    question: PlanQuestion, sizer: Sizer, services: GpuServices, variant: Variant, strategy: Strategy | None = None
) -> StrategyRow:
    gpu = question.gpu_of(services)
    found = sizer.least(services, gpu, variant)
    strategy = strategy or variant.strategy
    if found is None:
        return StrategyRow(
            strategy, variant.title, services.title, None, None, _why_never(question, sizer, services, variant)
        )
    scaling = variant.fleet.autoscaling is not None
    countable = not scaling and question.workload.recorded is None
    people = sizer.most_people(services, variant, found.gpus) if countable else None
    pros, cons = _pros_and_cons(strategy, found)
    most = people == sizer.most_searched
    breaks = _breaks(found, people, variant, most=most)
    return StrategyRow(strategy, variant.title, services.title, found, people, breaks, pros, cons, most)


def _why_never(question: PlanQuestion, sizer: Sizer, services: GpuServices, variant: Variant) -> str:
    """Return why no number of GPUs meets the SLO."""
    mean = services.mean(question.workload.mix)
    if (scaling := variant.fleet.autoscaling) is not None and sizer.holds_unloaded(services):
        return f"cold starts of {scaling.cold_start:.3g} s: too many images wait for one"
    if variant.fleet.dispatch in ("sticky", "random"):
        return f"more GPUs do not help: prompts of {mean:.3g} s queue on one server while others are idle"
    return f"more GPUs do not help: a prompt takes {mean:.3g} s without any wait; use a faster GPU"


def _breaks(found: Evaluation, people: int | None, variant: Variant, *, most: bool) -> str:
    """Return what fails first under a larger load."""
    if variant.fleet.autoscaling is not None:
        return "the cold start, and the host's limit of workers"
    what = "overlapping sessions" if found.utilization_busiest < 0.2 else "the queue in the busiest hour"
    return what if people is None else f"{what}, {'far ' * most}above {people} people"


def _pros_and_cons(strategy: Strategy, found: Evaluation) -> tuple[str, str]:
    """Return what speaks for and against a strategy, in its own figures."""
    idle = 1 - found.utilization
    match strategy:
        case "vertical":
            pros = f"each image is ready sooner: p50 {found.p50:.3g} s"
            return (
                pros,
                f"idle but paid for {idle:.0%} of the day; {found.paid_over_busy:.3g} s paid per second of work",
            )
        case "queue":
            return (
                f"p95 of the busiest hour {found.p95_busiest:.3g} s; no prompt waits while a server is idle",
                f"a queue to operate; idle but paid for {idle:.0%} of the day",
            )
        case "horizontal":
            return (
                f"any balancer works; one of {found.gpus} may fail" if found.gpus > 1 else "any balancer works",
                f"prompts wait beside idle servers: p95 of the busiest hour {found.p95_busiest:.3g} s",
            )
        case "serverless":
            return (
                f"{found.paid_per_day / 3600:.3g} GPU hours paid a day, none while idle",
                f"p95 {found.p95:.3g} s with cold starts; {found.paid_over_busy:.3g} s paid per second of work",
            )


def _rank(row: StrategyRow) -> tuple[float, int, bool]:
    """Return a sort key: cost, if it is known, then GPUs; one queue comes first among equals."""
    found = row.evaluation
    assert found is not None
    cost = found.cost_per_day if found.cost_per_day is not None else found.gpus
    return cost, found.gpus, row.strategy != "queue"


def _offers(question: PlanQuestion, sizer: Sizer) -> list[Offer]:
    """Size each GPU of the file, behind one queue, at the same SLO."""
    known = {each.gpu: each for each in question.services if each.gpu is not None}
    needs = max((each.needs_gb or 0.0 for each in question.services), default=0.0)
    offers = []
    for key, gpu in question.gpus.gpu.items():
        if gpu.vram_gb < needs:
            offers.append(Offer(gpu.name, remark=f"{gpu.vram_gb:g} GB of memory are too little: it needs {needs:g} GB"))
        elif key not in known:
            offers.append(Offer(gpu.name, remark="unknown: measure one run"))
        else:
            rule = question.gpus.rule_of_thumb.get(key)
            offers.append(_offer(gpu, sizer.least(known[key], gpu, VARIANTS[0]), rule, question.workload))
    return sorted(offers, key=lambda offer: (offer.dollars is None, offer.dollars or 0.0, offer.gpus is None))


def _offer(gpu: GpuKind, found: Evaluation | None, rule: RuleOfThumb | None, workload: Workload) -> Offer:
    if found is None:
        return Offer(gpu.name, remark="cannot meet the SLO in any number")
    dollars = None if found.cost_per_image is None else 1000 * found.cost_per_image
    watt_hours = None if found.wh_per_image is None else 1000 * found.wh_per_image
    remarks = [] if dollars is not None else ["no price in the GPU file"]
    if rule is not None and workload.recorded is None:
        low, high = rule.queued_users
        each = workload.people / found.gpus
        remarks.append(f"{each:,.3g} people each, where the rule of thumb is {low:g}–{high:g} queued users")
    return Offer(gpu.name, found.gpus, found.p95, dollars, watt_hours, found.wh_is_bound, "; ".join(remarks))


def _changes(question: PlanQuestion, sizer: Sizer) -> list[ChangedInput]:
    """Answer again for the GPU in question, with changes to the inputs that are most often wrong."""
    base, workload, queue = question.services[0], question.workload, VARIANTS[0]
    slower, faster = base.scaled(1.2), base.scaled(0.8)
    if workload.recorded is not None:
        more, fewer = (Sizer(workload.scaled(factor), question.slo, question.share) for factor in (1.2, 0.8))
        return [
            ChangedInput("20 % more prompts", more.least_number(base, queue)),
            ChangedInput("20 % fewer prompts", fewer.least_number(base, queue)),
            ChangedInput("20 % slower", sizer.least_number(slower, queue)),
            ChangedInput("20 % faster", sizer.least_number(faster, queue)),
        ]
    people, bursts = workload.people, replace(workload, style=WorkStyle.parse("4-at-once"))
    return [
        ChangedInput("20 % more people", sizer.least_for(round(1.2 * people), base, queue)),
        ChangedInput("20 % fewer people", sizer.least_for(max(1, round(0.8 * people)), base, queue)),
        ChangedInput("20 % slower", sizer.least_for(people, slower, queue)),
        ChangedInput("20 % faster", sizer.least_for(people, faster, queue)),
        ChangedInput("four at once", Sizer(bursts, question.slo, question.share).least_for(people, base, queue)),
    ]


def _stands_on(question: PlanQuestion, sizer: Sizer) -> list[str]:
    workload, base = question.workload, question.services[0]
    lines = [f"service times: {each.stands_on}" for each in base.workflows]
    if not base.measured:
        lines.append("their spread is assumed: lognormal, standard deviation 30 % of the mean")
    lines.append(
        f"arrivals: {workload.style.name}; day profile {workload.day.name}, {workload.busiest_share:.0%} in the "
        f"busiest hour; {sizer.arrived.days} days drawn, {len(sizer.arrived)} prompts"
    )
    gpu = question.gpu_of(base)
    if gpu is not None and gpu.price is not None:
        date, stale = gpu.price.date, age_of(gpu.price.date, question.today)
        said = [f"prices: {gpu.price.source}", *([str(date)] if date else []), *([stale] if stale else [])]
        lines.append(", ".join(said))
    else:
        lines.append("prices: none for this GPU; `--write-gpus FILE`, add one, and give `--gpus FILE`")
    start = f"cold starts: {base.start:g} s until a server responds, not measured"
    lines.append(f"{start}, and {base.model_load:.3g} s to load its first model")
    return lines


def _notes(question: PlanQuestion, rows: Sequence[StrategyRow]) -> list[str]:
    """Return notes that compare the plan with the rules of thumb."""
    notes: list[str] = []
    workload, base = question.workload, question.services[0]
    queue = next((row for row in rows if row.title == VARIANTS[0].title and row.strategy == "queue"), None)
    if queue is None or queue.evaluation is None:
        return notes
    found = queue.evaluation
    for rule in question.gpus.fleet_rule:
        if (rule.people, rule.images_per_day) == (workload.people, workload.images_per_day) and rule.gpu == base.gpu:
            notes.append(
                f"rule of thumb: {rule.gpus} × {base.title} for {rule.people} people; this plan: {found.gpus}"
                + _why_other(rule.gpus, found, base, workload)
            )
    if base.gpu in question.gpus.rule_of_thumb and queue.people_held:
        low, high = question.gpus.rule_of_thumb[base.gpu].queued_users
        held = f"{'at least ' * queue.held_at_least}{queue.people_held / found.gpus:,.0f} people"
        notes.append(
            f"rule of thumb: {low:g}–{high:g} users per {base.title}; this plan: {held}, who send "
            f"{workload.per_person:.3g} images a day each"
        )
    return notes


def _why_other(rule: int, found: Evaluation, services: GpuServices, workload: Workload) -> str:
    if found.gpus < rule:
        return f", since even in the busiest hour it is only {found.utilization_busiest:.0%} utilized"
    if found.gpus > rule:
        mean = services.mean(workload.mix)
        return f", since sessions with {mean:.3g} s a picture overlap, although utilization is {found.utilization:.0%}"
    return ""


def curves(plan: CapacityPlan) -> tuple[PeopleCurve, ...]:
    """Return p95 against people for n, n + 1 and 2 n GPUs behind one queue, to beyond the knee of each.

    n is the fewest GPUs that meet the SLO. Empty if no number of GPUs meets it, or if the prompts are recorded, since
    those belong to no person.
    """
    question, base = plan.question, plan.question.services[0]
    if question.workload.recorded is not None:
        return ()
    sizer = Sizer(question.workload, question.slo, question.share)
    n = sizer.least_number(base, VARIANTS[0]) or 0
    return tuple(_curve(question, sizer, gpus) for gpus in sorted({n, n + 1, 2 * n}) if n)


def _curve(question: PlanQuestion, sizer: Sizer, gpus: int) -> PeopleCurve:
    base, now = question.services[0], question.workload.people
    knee = sizer.most_people(base, VARIANTS[0], gpus)
    numbers = sorted({now, *(max(1, int(share * knee)) for share in SHARES_OF_KNEE)})
    judged = [(people, sizer.with_people(people, base, question.gpu_of(base), VARIANTS[0], gpus)) for people in numbers]
    points = [CurvePoint(people, each.p95, each.days_held, each.cost_per_image) for people, each in judged]
    return PeopleCurve(gpus, knee, knee == sizer.most_searched, tuple(points))
