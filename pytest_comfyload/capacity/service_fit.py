"""Service times of prompts on a GPU: from a stored run, else from a published figure or a rule of thumb."""

from __future__ import annotations

import datetime
import math
import operator
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pytest_comfyload.capacity.gpus import GpuFile, PublishedFigure, age_of
from pytest_comfyload.errors import UsageError, nearest
from pytest_comfyload.metrics.load_plan import Service
from pytest_comfyload.metrics.units import counted
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import CacheClass, Outcome
from pytest_comfyload.result.service_times import services_in

__all__ = ["GpuServices", "WorkflowServices", "of_figures", "of_run", "shares_of"]

# Spread of service times of which only the mean is known: standard deviation ÷ mean of a lognormal distribution.
ASSUMED_SPREAD = 0.3
QUANTILES = 400
LEAST_PROMPTS = 20
# Seconds from the start of a server until it serves, without loading its first model. Hosting providers state 30–90 s;
# runs never measure it.
ASSUMED_START = 45.0


@dataclass(frozen=True, slots=True)
class WorkflowServices:
    """The services of warm prompts of one workflow, ordered by how long they occupy a server.

    model_load: additional seconds of the first prompt on a server. images: images per prompt.
    """

    name: str
    services: tuple[Service, ...]
    stands_on: str
    measured: bool
    model_load: float = 0.0
    images: float = 1.0

    @property
    def mean(self) -> float:
        """Mean seconds for which a prompt occupies a server."""
        return statistics.fmean(service.occupied for service in self.services)

    def scaled(self, factor: float) -> WorkflowServices:
        """Return the services of a server that takes `factor` times as long; time outside of it stays the same."""
        slower = [Service(factor * each.occupied, factor * each.generation, each.outside) for each in self.services]
        return replace(self, services=tuple(slower), model_load=factor * self.model_load)


@dataclass(frozen=True, slots=True, eq=False)
class GpuServices:
    """Service times of the workflows of a mix on one kind of GPU.

    gpu: its key in the GPU file, None if it is not in the file. title: the name to display.
    needs_gb: the VRAM that the workflows need, if known.
    joules: measured energy per image while it is generated, if known.
    start: seconds from the start of a server until it can take a prompt.
    """

    gpu: str | None
    title: str
    workflows: tuple[WorkflowServices, ...]
    needs_gb: float | None = None
    joules: float | None = None
    start: float = ASSUMED_START
    notes: tuple[str, ...] = field(default=())

    @property
    def measured(self) -> bool:
        return all(each.measured for each in self.workflows)

    @property
    def model_load(self) -> float:
        """Additional seconds of the first prompt on a server; the maximum of the workflows."""
        return max(each.model_load for each in self.workflows)

    def scaled(self, factor: float) -> GpuServices:
        return replace(self, workflows=tuple(each.scaled(factor) for each in self.workflows))

    def images(self, mix: Mapping[str, float]) -> float:
        """Return the mean number of images per prompt of the mix."""
        return _weighted([each.images for each in self.workflows], mix)

    def mean(self, mix: Mapping[str, float]) -> float:
        """Return the mean seconds for which a prompt of the mix occupies a server."""
        return _weighted([each.mean for each in self.workflows], mix)


def _weighted(values: Sequence[float], mix: Mapping[str, float]) -> float:
    return math.fsum(map(operator.mul, values, mix.values())) / math.fsum(mix.values())


def of_run(load: LoadResult, mix: Mapping[str, float], gpus: GpuFile, source: str) -> GpuServices:
    """Return the services of the workflows of a mix, as measured in a run.

    Raises: UsageError if the run does not have one of the workflows, or too few prompts of it.
    """
    by_workflow: dict[str, list[tuple[Outcome, Service | None]]] = {}
    for outcome, service in zip(load.all_outcomes, services_in([load.all_outcomes])[0], strict=True):
        by_workflow.setdefault(outcome.workflow, []).append((outcome, service))
    for name in mix:
        if name not in by_workflow:
            raise UsageError(f"--mix: {source} has no workflow {name!r}; it has {nearest(name, by_workflow)}")
    device = _device(load)
    # A simulated server says nothing about the speed of a real one: plans based on it must show that.
    title = "simulated " * (load.facts.time_scale is not None) + (device or "server")
    where = f"{source}, {title}"
    if load.invalid_because:
        where += f"; that run is invalid: {load.invalid_because}"
    workflows = tuple(_of_outcomes(name, by_workflow[name], where) for name in mix)
    joules = float(load.gpu.energy_per_image) if load.facts.gpu_usage else math.nan
    return GpuServices(
        gpus.key_of(device) if device else None,
        title,
        workflows,
        joules=joules if joules > 0 and math.isfinite(joules) else None,
    )


def shares_of(load: LoadResult) -> dict[str, float]:
    """Return the number of prompts of each workflow that a run measured."""
    return dict(Counter(outcome.workflow for outcome in load.outcomes))


def _device(load: LoadResult) -> str:
    """Return the name of the GPU of the run's first server; empty if unknown."""
    names = [facts.name for facts in load.facts.gpu_facts]
    names += [device.name for facts in load.facts.server_facts for device in facts.devices]
    return next((name for name in names if name), "")


def _of_outcomes(name: str, ran: Sequence[tuple[Outcome, Service | None]], where: str) -> WorkflowServices:
    warm = [
        service
        for outcome, service in ran
        if service is not None and not outcome.warmup and outcome.cache_class in (CacheClass.WARM, None)
    ]
    cold = [
        service.occupied
        for outcome, service in ran
        if service is not None and outcome.cache_class is CacheClass.COLD and math.isfinite(service.generation)
    ]
    if len(warm) < LEAST_PROMPTS:
        raise UsageError(
            f"{where}: {counted(len(warm), 'warm prompt')} of {name}; a plan needs {LEAST_PROMPTS}: run a longer load"
        )
    middle = statistics.median(service.occupied for service in warm)
    images = [len(outcome.results) for outcome, _ in ran if outcome.succeeded]
    return WorkflowServices(
        name,
        tuple(sorted(warm)),
        f"{len(warm)} prompts of {name}, mean {statistics.fmean(each.occupied for each in warm):.3g} s, {where}",
        measured=True,
        model_load=max(0.0, statistics.median(cold) - middle) if cold else 0.0,
        images=statistics.fmean(images) if images and any(images) else 1.0,
    )


def of_figures(
    gpu: str, mix: Mapping[str, float] | None, gpus: GpuFile, today: datetime.date | None = None
) -> GpuServices:
    """Return services from the GPU file: figures of the mix's workloads; without a mix, the GPU's rule of thumb.

    `today` is the date for which the age of figures is computed.

    Raises: UsageError if the file has no such figure or rule.
    """
    kind = gpus.named(gpu)
    if mix is None:
        rule = gpus.rule_of_thumb.get(gpu)
        if rule is None:
            raise UsageError(
                f"unknown: how long an image takes on {kind.name}. Measure one run there, give --from-run; or name "
                f"a workload with --mix, or one of {', '.join(gpus.rule_of_thumb)}, which have rules of thumb"
            )
        low, high = rule.images_per_minute
        text = (
            f"a rule of thumb, not measured: {low:g}–{high:g} images a minute on {kind.name}, {rule.seconds:.3g} s each"
        )
        return GpuServices(gpu, kind.name, (_assumed("an image", rule.seconds, text),))
    workflows = []
    for name in mix:
        if name not in gpus.workload:
            raise UsageError(f"--mix: no workload {name!r} in the GPU file: {nearest(name, gpus.workload)}")
        figure = gpus.figure_of(gpu, name)
        if figure is None:
            having = ", ".join(gpus.figures_of(name)) or "no GPU"
            raise UsageError(
                f"not known: {gpus.workload[name].title} on {kind.name}; measure one run there and give --from-run "
                f"(the GPU file has figures of it for {having})"
            )
        workflows.append(_assumed(name, figure.seconds, _described(figure, gpus, today or datetime.date.today())))
    needs = [gpus.workload[name].vram_gb or 0.0 for name in mix]
    return GpuServices(gpu, kind.name, tuple(workflows), needs_gb=max(needs) or None)


def _described(figure: PublishedFigure, gpus: GpuFile, today: datetime.date) -> str:
    stale = age_of(figure.date, today)
    return (
        f"a {figure.kind} figure, not measured here: {gpus.workload[figure.workload].title} {figure.seconds:g} s on "
        f"{gpus.gpu[figure.gpu].name}, {figure.software}, {figure.source}" + (f", {stale}" if stale else "")
    )


def _assumed(name: str, mean: float, stands_on: str) -> WorkflowServices:
    """Return lognormally distributed services with this mean."""
    sigma = math.sqrt(math.log1p(ASSUMED_SPREAD**2))
    normal = statistics.NormalDist(0, sigma)
    raw = [math.exp(normal.inv_cdf((k + 0.5) / QUANTILES)) for k in range(QUANTILES)]
    scale = mean / statistics.fmean(raw)
    return WorkflowServices(name, tuple(Service.of(scale * each) for each in raw), stands_on, measured=False)
