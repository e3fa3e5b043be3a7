"""`comfyload plan`: how many GPUs of which kind, and in which setup, can serve a number of people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from pytest_comfyload.cli.options import StoreOption, Test, chosen, open_store, reading
from pytest_comfyload.cli.output import echo, echo_json
from pytest_comfyload.errors import UsageError

if TYPE_CHECKING:
    from pytest_comfyload.capacity.evaluation import Strategy
    from pytest_comfyload.capacity.gpus import GpuFile
    from pytest_comfyload.capacity.plan_answer import CapacityPlan
    from pytest_comfyload.capacity.service_fit import GpuServices
    from pytest_comfyload.capacity.workload import DayProfile, Workload
    from pytest_comfyload.history.index import Row

__all__ = ["plan"]

Mix = Mapping[str, float]


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
    file = _gpu_file(gpus)
    given = None if mix is None else _mix(mix)
    services, weights = _services(from_run or (), scenario, gpu, given, file, store, _start(cold_start))
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


def _gpu_file(path: Path | None) -> GpuFile:
    """Raises: UsageError."""
    from pytest_comfyload.capacity.gpus import GpuFile, shipped_gpus

    return GpuFile.parse(shipped_gpus(), "gpus.toml") if path is None else GpuFile.parse(_text(path), str(path))


def _text(path: Path) -> str:
    """Read a user's file. Raises: UsageError."""
    from pytest_comfyload.errors import StoreError
    from pytest_comfyload.history.files import read_untrusted

    try:
        return read_untrusted(path, 1_000_000).decode()
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except StoreError as error:
        raise UsageError(str(error)) from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text") from None


def _mix(text: str) -> dict[str, float]:
    """Parse `a=0.7,b=0.3`; a name alone has weight 1. Raises: UsageError."""
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.strip().rpartition("=") if "=" in part else (part.strip(), "", "1")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not name or not (0 < weight < math.inf) or name in weights:
            raise UsageError(f"--mix {text!r}: {part.strip()!r} is not name=weight; write sdxl=0.7,flux=0.3")
        weights[name] = weight
    return weights


def _start(text: str) -> float:
    from pytest_comfyload.metrics.units import parse_duration

    return parse_duration(text, "--cold-start")


def _services(
    refs: Sequence[str],
    scenario: str | None,
    gpu: str | None,
    mix: Mix | None,
    file: GpuFile,
    store: str | None,
    start: float,
) -> tuple[list[GpuServices], Mix]:
    """Return the service times on the requested GPU and on its alternatives, and the mix. Raises: UsageError."""
    from dataclasses import replace

    from pytest_comfyload.capacity.service_fit import of_figures

    if refs and gpu is not None:
        raise UsageError("--gpu and --from-run contradict each other: a run has its GPU")
    if refs:
        found, mix = _of_runs(refs, scenario, mix, file, store)
    elif gpu is not None:
        found = [of_figures(gpu, mix, file)]
        found += [of_figures(other, mix, file) for other in file.known_for(mix) if other != gpu]
    else:
        known = ", ".join(file.known_for(mix))
        raise UsageError(f"give --from-run REF, such as latest; or --gpu, of which figures are known: {known}")
    return [replace(each, start=start) for each in found], mix or {"an image": 1.0}


def _of_runs(
    refs: Sequence[str], scenario: str | None, mix: Mix | None, file: GpuFile, where: str | None
) -> tuple[list[GpuServices], Mix]:
    """Raises: UsageError."""
    from pytest_comfyload.capacity.service_fit import of_run, shares_of
    from pytest_comfyload.history.git import Git
    from pytest_comfyload.history.refs import select

    store = open_store(where)

    def read() -> tuple[list[GpuServices], Mix]:
        rows = chosen(store, scenario, None, None)
        weights, found = mix, []
        for ref in refs:
            row = _newest(ref, select(ref, rows, Git(Path.cwd())))
            load = store.load(row).load()
            weights = weights or shares_of(load)
            found.append(of_run(load, weights, file, f"run {row.run_id}"))
        return found, weights or {}

    return reading(store, read)


def _newest(ref: str, found: Sequence[Row]) -> Row:
    """Return the newest of the runs that `ref` selects. Raises: UsageError if they are of several scenarios."""
    scenarios = sorted({row.series_title for row in found})
    if len(scenarios) > 1:
        listed = ", ".join(scenarios[:5]) + (", …" if len(scenarios) > 5 else "")
        raise UsageError(
            f"--from-run {ref}: {len(scenarios)} scenarios have such a run: {listed}; choose one with --scenario"
        )
    return found[0]


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
    return DayProfile.parse(_text(Path(text)), text)


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
