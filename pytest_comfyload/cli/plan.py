"""`comfyload plan`: how many GPUs of which kind, and in which setup, can serve a number of people."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from pytest_comfyload.cli.options import StoreOption, Test
from pytest_comfyload.cli.output import echo, echo_json, echo_lines, screen_width
from pytest_comfyload.cli.plan_services import Mix, gpu_file, parse_mix, services_of, text_of_file
from pytest_comfyload.errors import UsageError

if TYPE_CHECKING:
    from pytest_comfyload.capacity.evaluation import Strategy
    from pytest_comfyload.capacity.plan_answer import CapacityPlan
    from pytest_comfyload.capacity.workload import DayProfile, Workload

__all__ = ["plan"]


class StrategyName(StrEnum):
    ALL = "all"
    VERTICAL = "vertical"
    HORIZONTAL = "horizontal"
    QUEUE = "queue"
    SERVERLESS = "serverless"


def plan(
    slo: Annotated[
        str, typer.Option(metavar="SLO", help="SLO to meet, such as 'total_time.p95 < 60'.")
    ] = "total_time.p95 < 60",
    people: Annotated[int | None, typer.Option(help="Number of people who share the service.")] = None,
    images_per_day: Annotated[float | None, typer.Option(help="Images per day of all people together.")] = None,
    images_per_month: Annotated[
        float | None, typer.Option(help="Images per month (30 days) of all people, instead.")
    ] = None,
    images_per_person: Annotated[float | None, typer.Option(help="Images per day of one person, instead.")] = None,
    from_run: Annotated[
        list[str] | None,
        typer.Option(metavar="REF", help="Stored run to take service times from; repeat for a run on another GPU."),
    ] = None,
    scenario: Test = None,
    gpu: Annotated[
        str | None, typer.Option(metavar="GPU", help="GPU of the GPU file, such as rtx4090, instead of a run.")
    ] = None,
    mix: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=WEIGHT,…",
            help="Workflows of the run, or workloads of the GPU file, by weight: sdxl=0.7,flux=0.3.",
        ),
    ] = None,
    day: Annotated[
        str,
        typer.Option(
            metavar="PROFILE",
            help="Day profile: office, evening, around-the-clock, or a file of 24 numbers from midnight.",
        ),
    ] = "office",
    work: Annotated[
        str,
        typer.Option(
            metavar="STYLE", help="How people work: sessions (8 prompts, 45 s apart), one at a time, N-at-once."
        ),
    ] = "sessions",
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Trace written by `comfyload record`, whose arrivals are used instead."),
    ] = None,
    window: Annotated[
        str,
        typer.Option(
            metavar="WINDOW",
            help="Part of the trace: all, '9h..33h' from its start, '2026-11-03T00:00..2026-11-05T00:00'.",
        ),
    ] = "all",
    growth: Annotated[
        float, typer.Option(help="Factor on the number of people, or on the prompts of the trace.")
    ] = 1.0,
    strategy: Annotated[
        StrategyName, typer.Option(help="All strategies in one table, or one with its variants.")
    ] = StrategyName.ALL,
    on_days: Annotated[
        float, typer.Option(metavar="PERCENT", help="Percentage of days on which the SLO must hold.")
    ] = 95.0,
    cold_start: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help="Time from the start of a serverless worker until ComfyUI answers, without loading a model.",
        ),
    ] = "45s",
    gpus: Annotated[
        Path | None, typer.Option(metavar="FILE", help="GPU file to use instead of the shipped one.")
    ] = None,
    write_gpus: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the shipped GPU file for editing, and exit.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulation; the same seed gives the same plan.")] = 0,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write an HTML page: p95 against people, cost against p95.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the curves.")] = False,
    store: StoreOption = None,
) -> None:
    """Plan how many GPUs a number of people needs within an SLO, by strategy, with waits, cost and limits."""
    from pytest_comfyload.capacity.capacity_plan import make_plan
    from pytest_comfyload.capacity.plan_answer import PlanQuestion
    from pytest_comfyload.metrics.slo import Slo
    from pytest_comfyload.report.html.page import require_libraries
    from pytest_comfyload.report.plan_lines import plan_lines

    if write_gpus is not None:
        _write_gpus(write_gpus)
        return
    if html is not None:
        require_libraries()
    wanted = Slo.parse(slo)
    if not 0 < on_days <= 100:
        raise UsageError(f"--on-days {on_days:g}: give a percentage above 0, up to 100")
    if not 0 < growth <= 1000:
        raise UsageError(f"--growth {growth:g}: give a factor above 0, up to 1000")
    file = gpu_file(gpus)
    given = None if mix is None else parse_mix(mix)
    services, weights = services_of(from_run or (), scenario, gpu, given, file, store, cold_start)
    if trace is not None:
        _refuse_beside_trace(images_per_day, images_per_month, images_per_person)
        workload = _recorded(trace, window, weights, seed, services[0].images(weights))
    else:
        if people is None:
            raise UsageError("--people is missing: how many share the service; or give --trace FILE")
        images = _images(people, images_per_day, images_per_month, images_per_person)
        workload = _drawn(people, images, day, work, weights, seed, services[0].images(weights))
    made = make_plan(
        PlanQuestion(
            workload=workload if growth == 1 else workload.scaled(growth),
            slo=wanted,
            services=tuple(services),
            gpus=file,
            share=on_days / 100,
            strategy=None if strategy is StrategyName.ALL else cast("Strategy", strategy.value),
        )
    )
    if as_json:
        echo_json(_as_json(made))
    elif sys.stdout.isatty():
        echo_lines(plan_lines(made, screen_width()))
    else:
        echo("\n".join(plan_lines(made)))
    if html is not None:
        _write_page(made, html)


def _write_page(plan: CapacityPlan, path: Path) -> None:
    """Write the HTML page of a plan. Raises: UsageError if it cannot be written."""
    from pytest_comfyload.capacity.capacity_plan import curves
    from pytest_comfyload.report.html.plan_page import write_plan

    try:
        write_plan(plan, curves(plan), path)
    except OSError as error:
        raise UsageError(f"--html {path}: the page cannot be written: {error}") from None
    echo(f"written: {path}", err=True)


def _write_gpus(path: Path) -> None:
    """Write the shipped GPU file for editing. Raises: UsageError if the file already exists."""
    from pytest_comfyload.capacity.gpus import shipped_gpus

    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(shipped_gpus())
    except FileExistsError:
        raise UsageError(f"--write-gpus {path}: the file already exists; give another name") from None
    echo(f"written: {path}")


def _images(people: int, day: float | None, month: float | None, person: float | None) -> float:
    """Return the number of images per day. Raises: UsageError unless exactly one rate is given."""
    given = [each for each in (day, month, person) if each is not None]
    if len(given) != 1:
        raise UsageError("give one of --images-per-day, --images-per-month, --images-per-person")
    if day is not None:
        return day
    return month / 30 if month is not None else people * given[0]


def _refuse_beside_trace(*images: float | None) -> None:
    if any(each is not None for each in images):
        raise UsageError("--trace has its own prompts; leave --images-per-… out, or scale them with --growth")


def _recorded(path: Path, window: str, mix: Mix, seed: int, images_per_prompt: float) -> Workload:
    """Raises: UsageError."""
    from pytest_comfyload.capacity.workload import Workload
    from pytest_comfyload.metrics.arrival_trace import read_trace

    return Workload.of_trace(read_trace(path, str(path)), mix, seed, images_per_prompt, window)


def _drawn(people: int, images: float, day: str, work: str, mix: Mix, seed: int, images_per_prompt: float) -> Workload:
    """Raises: UsageError."""
    from pytest_comfyload.capacity.workload import Workload, WorkStyle

    return Workload(people, images, _day(day), WorkStyle.parse(work), mix, seed, images_per_prompt=images_per_prompt)


def _day(text: str) -> DayProfile:
    """Raises: UsageError."""
    from pytest_comfyload.capacity.workload import DAY_PROFILES, DayProfile

    if text in DAY_PROFILES or not Path(text).is_file():
        return DayProfile.named(text)
    return DayProfile.parse(text_of_file(Path(text)), text)


def _as_json(plan: CapacityPlan) -> dict[str, object]:
    from dataclasses import asdict

    from pytest_comfyload.capacity.capacity_plan import curves
    from pytest_comfyload.report.plan_lines import sentence

    return {
        "schema": "comfyload.plan/1",
        "sentence": sentence(plan),
        "slo": str(plan.question.slo),
        "rows": [asdict(row) for row in plan.rows],
        "best": None if plan.best is None else plan.rows.index(plan.best),
        "offers": [asdict(each) for each in plan.offers],
        "changes": [asdict(each) for each in plan.changes],
        "curves": [asdict(each) for each in curves(plan)],
        "stands_on": plan.stands_on,
        "notes": plan.notes,
    }
