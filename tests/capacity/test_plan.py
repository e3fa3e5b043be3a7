"""Plans: closed-form results for the queue, invariants of every plan, and the rules of thumb next to it."""

from __future__ import annotations

import datetime
import statistics
from dataclasses import asdict, replace

import pytest

from pytest_comfyload.capacity import columns
from pytest_comfyload.capacity.capacity_plan import curves, make_plan
from pytest_comfyload.capacity.evaluation import Asked, Evaluation, Variant
from pytest_comfyload.capacity.fleet import Fleet
from pytest_comfyload.capacity.gpus import GpuFile, shipped_gpus
from pytest_comfyload.capacity.plan_answer import CapacityPlan, PlanQuestion
from pytest_comfyload.capacity.service_fit import GpuServices, of_figures, of_run
from pytest_comfyload.capacity.sizing import Sizer
from pytest_comfyload.capacity.strategies import VARIANTS, serverless
from pytest_comfyload.capacity.workload import DayProfile, Workload, WorkStyle
from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.slo import Slo
from pytest_comfyload.report.plan_lines import plan_lines
from tests.metrics.closed_forms import erlang_c
from tests.result.outcomes import load_of, outcome

GPUS = GpuFile.parse(shipped_gpus(), "gpus.toml")
SLO = Slo.parse("total_time.p95 < 60")


def question(people: int, images: float, gpu: str, **changes: object) -> PlanQuestion:
    services = tuple(of_figures(each, None, GPUS) for each in (gpu, *(set(GPUS.rule_of_thumb) - {gpu})))
    made = PlanQuestion(workload=Workload(people, images), slo=SLO, services=services, gpus=GPUS)
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def small() -> CapacityPlan:
    return make_plan(question(10, 100, "rtx3090"))


def test_a_busy_small_row_needs_two(small: CapacityPlan) -> None:
    """One GPU with 20 s per image misses the SLO on too many days, since sessions overlap; folklore buys one."""
    rows = {row.strategy: row for row in small.rows}
    assert list(rows) == ["vertical", "queue", "horizontal", "serverless"]
    queue = rows["queue"].evaluation
    assert queue is not None
    assert queue.gpus == 2
    assert queue.days_held >= 0.95 * queue.days
    assert rows["serverless"].evaluation is None
    assert "cold starts of 45 s" in rows["serverless"].breaks
    [rule, users] = small.notes
    assert "1 × NVIDIA GeForce RTX 3090 for 10 people; this plan: 2, since sessions" in rule
    assert "5–10 users" in users


def test_its_figures_fit_together(small: CapacityPlan) -> None:
    for row in small.rows:
        found = row.evaluation
        if found is None:
            continue
        assert found.p50 <= found.p95 <= found.p99
        assert 0 < found.utilization <= found.utilization_busiest <= 1
        assert found.cost_per_day is not None
        assert found.cost_per_image is not None
        assert found.cost_per_day == pytest.approx(100 * found.cost_per_image, rel=0.02)
        assert found.paid_over_busy == pytest.approx(1 / found.utilization)
        assert row.people_held is None or row.people_held >= 10
    assert small.best is not None
    assert small.best.strategy == "queue"


def test_the_curves_rise_to_the_knee_and_beyond(small: CapacityPlan) -> None:
    few, more, most = curves(small)
    assert (few.gpus, more.gpus, most.gpus) == (2, 3, 4)
    for curve in (few, more, most):
        numbers = [point.people for point in curve.points]
        assert numbers == sorted(set(numbers))
        assert 10 in numbers
        assert curve.points[0].p95 < curve.points[-1].p95
        knee, margin, days = curve.at(curve.knee), curve.at(curve.margin), small.question.workload.days
        assert knee is not None
        assert margin is not None
        assert knee.days_held <= margin.days_held
        assert curve.points[-1].days_held < knee.days_held <= days
    assert few.knee < more.knee < most.knee
    queue = next(row for row in small.rows if row.strategy == "queue")
    assert few.knee == queue.people_held


def test_a_figure_and_its_source() -> None:
    mix = {"sdxl-1024-50": 1.0}
    services = (of_figures("a100", mix, GPUS),)
    asked = PlanQuestion(workload=Workload(10, 100, mix=mix), slo=SLO, services=services, gpus=GPUS)
    made = make_plan(replace(asked, strategy="queue", today=datetime.date(2027, 12, 1)))
    assert "community figure, not measured here" in made.stands_on[0]
    assert made.stands_on[0].endswith("date unknown")
    assert any("older than 180 days" in line for line in made.stands_on)
    assert {offer.remark for offer in made.offers if offer.gpus is None} == {"unknown: measure one run"}


def test_a_gpu_that_does_not_hold_the_workload_is_named() -> None:
    text = shipped_gpus().replace("vram_gb = 80\nboard_watts = 400", "vram_gb = 4\nboard_watts = 400")
    gpus, mix = GpuFile.parse(text, "gpus.toml"), {"sdxl-1024-50": 1.0}
    asked = PlanQuestion(
        workload=Workload(10, 100, mix=mix), slo=SLO, services=(of_figures("a100", mix, gpus),), gpus=gpus
    )
    with pytest.raises(UsageError, match="has 4 GB of memory, and sdxl-1024-50 needs 6 GB or more"):
        make_plan(asked)


def test_a_stronger_gpu_must_hold_the_workload(small: CapacityPlan) -> None:
    services = [replace(each, needs_gb=40.0) if each.gpu != "rtx3090" else each for each in small.question.services]
    made = make_plan(replace(small.question, services=tuple(services), strategy="vertical"))
    assert made.rows[0].gpu == "NVIDIA A100-SXM4-80GB"
    few = [replace(each, needs_gb=90.0) if each.gpu != "rtx3090" else each for each in services]
    assert (
        "unknown: no other GPU"
        in make_plan(replace(small.question, services=tuple(few), strategy="vertical")).rows[0].breaks
    )


def test_a_prompt_may_make_several_images() -> None:
    one = of_figures("rtx4090", None, GPUS)
    four = replace(one, workflows=tuple(replace(each, images=4.0) for each in one.workflows))
    assert four.images({"": 1.0}) == 4
    workload = Workload(100, 4000, images_per_prompt=4.0)
    assert (workload.prompts_per_day, workload.days) == (1000, 30)
    found = Sizer(workload, SLO, 0.95).evaluate(four, GPUS.gpu["rtx4090"], VARIANTS[0], 1)
    same = Sizer(Workload(100, 1000), SLO, 0.95).evaluate(one, GPUS.gpu["rtx4090"], VARIANTS[0], 1)
    assert found.p95 == same.p95
    assert found.cost_per_image is not None
    assert same.cost_per_image is not None
    assert found.cost_per_image == pytest.approx(same.cost_per_image / 4)


@pytest.mark.parametrize("variant", [*VARIANTS, serverless(45, 120)], ids=lambda variant: variant.title)
def test_a_fleet_is_judged_alike_without_numpy(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with two workflows, whose models are loaded alternately."""
    one = of_figures("rtx4090", None, GPUS)
    base = replace(one, workflows=tuple(replace(one.workflows[0], name=name, model_load=5.0) for name in "ab"))

    def judged(services: GpuServices) -> Evaluation:
        mix = {each.name: 1.0 for each in services.workflows}
        return Sizer(Workload(8, 20, mix=mix), SLO, 0.95).evaluate(services, GPUS.gpu["rtx4090"], variant, 2)

    arrays = [judged(services) for services in (one, base)]
    monkeypatch.setattr(columns, "np", None)
    for before, after in zip(arrays, [judged(services) for services in (one, base)], strict=True):
        assert asdict(after) == pytest.approx(asdict(before))


def test_the_prompts_of_another_workflow_are_no_pause_of_this_one() -> None:
    ran = [outcome(0.0, queue=2.5 * k, workflow="ab"[k % 2]) for k in range(60)]
    found = of_run(load_of(*ran), {"a": 1.0, "b": 1.0}, GPUS, "a run")
    assert [each.mean for each in found.workflows] == pytest.approx([2.5, 2.5])


def test_people_who_could_not_be_drawn_are_not_counted_exactly() -> None:
    fast = of_figures("a100", None, GPUS).scaled(0.001)
    made = make_plan(question(10, 1000, "a100", services=(fast,), strategy="queue"))
    row = made.rows[0]
    assert row.held_at_least
    assert row.people_held == Sizer(made.question.workload, SLO, 0.95).most_searched
    assert f"≥{row.people_held}" in " ".join(plan_lines(made))


@pytest.mark.parametrize(("people", "images", "said"), [(100_001, 5, "--people"), (5, 100_001, "images a day")])
def test_more_than_can_be_drawn_is_refused(people: int, images: float, said: str) -> None:
    with pytest.raises(UsageError, match=f"{said}.*plan for a part of them"):
        make_plan(question(people, images, "a100"))


@pytest.mark.parametrize("with_numpy", [True, False])
def test_people_who_send_nothing_are_held_by_one_gpu(with_numpy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not with_numpy:
        monkeypatch.setattr(columns, "np", None)
    sizer = Sizer(Workload(1, 1e-6), SLO, 0.95)
    found = sizer.least(of_figures("a100", None, GPUS), GPUS.gpu["a100"], VARIANTS[0])
    assert found is not None
    assert (found.gpus, found.days_held, found.utilization) == (1, found.days, 0)


def test_an_slo_that_no_gpu_meets() -> None:
    made = make_plan(question(3, 50, "a100", slo=Slo.parse("total_time.p95 < 1")))
    assert made.best is None
    assert all(row.evaluation is None for row in made.rows)
    assert "without any wait" in made.rows[0].breaks


def test_the_mean_wait_is_that_of_the_formula() -> None:
    """Single prompts at the same rate all day are a Poisson process, and M/M/c with exponential services."""
    flat = DayProfile.named("around-the-clock")
    workload = Workload(50, 12_000, day=flat, style=WorkStyle.parse("one"), seed=3)
    sizer = Sizer(workload, Slo.parse("queue_time.mean < 1000"), 0.5)
    services = of_figures("rtx4090", None, GPUS)
    found = sizer.evaluate(services, None, VARIANTS[0], 2)
    load = 12_000 / 86_400 * 10
    # About half of the M/M/c wait, since services vary less than exponential ones: Allen and Cunneen's (1 + cv²) / 2.
    expected = erlang_c(2, load) * 10 / (2 - load) * (1 + 0.3**2) / 2
    asked = Asked.of(sizer.arrived, services)
    waits = statistics.fmean(asked.served_by(Fleet(2)).waits)
    assert found.utilization == pytest.approx(load / 2, rel=0.02)
    assert waits == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(("people", "images"), [(0, 10), (-5, 10), (5, 0), (5, -1), (5, float("nan"))])
def test_bad_numbers(people: int, images: float) -> None:
    with pytest.raises(UsageError, match=r"--(people|images-per-day)"):
        Workload(people, images)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "gpus.toml"),
        ("[gpu.a]\nname = 'A'\nvram_gb = -1", "vram_gb"),
        ("[gpu.a]\nname = 'A'\nvram_gb = 8\nprize = 3", "prize"),
        ("[gpu.a]\nname='A'\nvram_gb=8\n[rule_of_thumb.b]\nimages_per_minute=[1,2]\nqueued_users=[1,2]", r"gpu\.b"),
    ],
)
def test_bad_gpu_files(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        GpuFile.parse(text, "gpus.toml")
