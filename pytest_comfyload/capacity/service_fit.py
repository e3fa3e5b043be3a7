"""What a prompt asks of a GPU: the service times of a stored run, else a figure, which says what it stands on."""

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
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import CacheClass, Outcome
from pytest_comfyload.result.service_times import services_in

__all__ = ["GpuServices", "WorkflowServices", "of_figures", "of_run", "shares_of"]

# How far service times are spread where only their mean is known: standard deviation ÷ mean of a lognormal.
ASSUMED_SPREAD = 0.3
QUANTILES = 400
LEAST_PROMPTS = 20
# A server that is started, until it serves, without its first model: hosts say 30–90 s. Never measured by a run.
ASSUMED_START = 45.0


@dataclass(frozen=True, slots=True)
class WorkflowServices:
    """The services of warm prompts of one workflow, by how long they occupy a server.

    model_load: what the first prompt on a server takes longer, in seconds. images: of a prompt.
    """

    name: str
    services: tuple[Service, ...]
    stands_on: str
    measured: bool
    model_load: float = 0.0
    images: float = 1.0

    @property
    def mean(self) -> float:
        """Seconds that a prompt occupies a server, on average."""
        return statistics.fmean(service.occupied for service in self.services)

    def scaled(self, factor: float) -> WorkflowServices:
        """Return the same on a server that takes so many times as long; what is outside of it stays."""
        slower = [Service(factor * each.occupied, factor * each.generation, each.outside) for each in self.services]
        return replace(self, services=tuple(slower), model_load=factor * self.model_load)


@dataclass(frozen=True, slots=True, eq=False)
class GpuServices:
    """What the workflows of a mix ask of one kind of GPU.

    gpu: its key in the GPU file, None where the file does not have it; title: as people say it.
    needs_gb: the VRAM that the workflows hold, as far as it is known.
    joules: energy of an image while it is made, measured; idle_watts: of a GPU that waits.
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
        """Seconds by which the first prompt on a server takes longer; the longest of the workflows."""
        return max(each.model_load for each in self.workflows)

    def scaled(self, factor: float) -> GpuServices:
        return replace(self, workflows=tuple(each.scaled(factor) for each in self.workflows))

    def images(self, mix: Mapping[str, float]) -> float:
        """Return how many images a prompt of the mix makes, on average."""
        return _weighted([each.images for each in self.workflows], mix)

    def mean(self, mix: Mapping[str, float]) -> float:
        """Seconds that a prompt of the mix occupies a server, on average."""
        return _weighted([each.mean for each in self.workflows], mix)


def _weighted(values: Sequence[float], mix: Mapping[str, float]) -> float:
    return math.fsum(map(operator.mul, values, mix.values())) / math.fsum(mix.values())


def of_run(load: LoadResult, mix: Mapping[str, float], gpus: GpuFile, source: str) -> GpuServices:
    """Return the services of a run's workflows that are in the mix.

    Raises: UsageError where there is a workflow that the run does not have, or too few prompts of it.
    """
    by_workflow: dict[str, list[tuple[Outcome, Service | None]]] = {}
    for outcome, service in zip(load.all_outcomes, services_in([load.all_outcomes])[0], strict=True):
        by_workflow.setdefault(outcome.workflow, []).append((outcome, service))
    for name in mix:
        if name not in by_workflow:
            raise UsageError(f"--mix: {source} has no workflow {name!r}; it has {nearest(name, by_workflow)}")
    device = _device(load)
    # A simulated server knows nothing of a real one's speed: what stands on it says so.
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
    """Return how many prompts of each workflow a run measured."""
    return dict(Counter(outcome.workflow for outcome in load.outcomes))


def _device(load: LoadResult) -> str:
    """Return the name of the GPU that the run's first server computes on; empty where nothing tells."""
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
            f"{where}: {len(warm)} warm prompts of {name}; a plan needs {LEAST_PROMPTS}: run a longer load"
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
    """Return what the GPU file knows: figures of the mix's workloads; without a mix the rule of thumb of the GPU.

    `today` is what the age of figures is counted to.

    Raises: UsageError where it knows nothing.
    """
    kind = gpus.named(gpu)
    if mix is None:
        rule = gpus.rule_of_thumb.get(gpu)
        if rule is None:
            raise UsageError(
                f"unknown: how long an image takes on {kind.name}. Measure one run there, give --from-run; or name "
                f"a workload by --mix, or one of {', '.join(gpus.rule_of_thumb)}, which have rules of thumb"
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
    """Return lognormal services of such a mean."""
    sigma = math.sqrt(math.log1p(ASSUMED_SPREAD**2))
    normal = statistics.NormalDist(0, sigma)
    raw = [math.exp(normal.inv_cdf((k + 0.5) / QUANTILES)) for k in range(QUANTILES)]
    scale = mean / statistics.fmean(raw)
    return WorkflowServices(name, tuple(Service.of(scale * each) for each in raw), stands_on, measured=False)
