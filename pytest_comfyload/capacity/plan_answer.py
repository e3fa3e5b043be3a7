"""The question that a capacity plan answers, and the answer."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field

from pytest_comfyload.capacity.evaluation import Evaluation, Strategy
from pytest_comfyload.capacity.gpus import GpuFile, GpuKind
from pytest_comfyload.capacity.service_fit import GpuServices
from pytest_comfyload.capacity.workload import Workload
from pytest_comfyload.metrics.slo import Slo

__all__ = ["CapacityPlan", "ChangedInput", "CurvePoint", "Offer", "PeopleCurve", "PlanQuestion", "StrategyRow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanQuestion:
    """The question that a capacity plan answers.

    Args:
        workload: Who sends which prompts, and when.
        slo: What has to be met on `share` of the days.
        services: What is known about GPUs for this mix; the question is about the first one, the others are its
            alternatives.
        gpus: The GPU file.
        strategy: The only strategy to consider, with all its variants; None: the main variant of each strategy.
    """

    workload: Workload
    slo: Slo
    services: tuple[GpuServices, ...]
    gpus: GpuFile
    share: float = 0.95
    strategy: Strategy | None = None
    today: datetime.date = field(default_factory=datetime.date.today)

    def gpu_of(self, services: GpuServices) -> GpuKind | None:
        return None if services.gpu is None else self.gpus.gpu[services.gpu]


@dataclass(frozen=True, slots=True)
class StrategyRow:
    """One way to serve the people; `evaluation` is None if no number of GPUs is enough, and `breaks` says why.

    people_held: the most people that can be served, None if not counted; a lower bound if `held_at_least` is set.
    """

    strategy: Strategy
    title: str
    gpu: str
    evaluation: Evaluation | None
    people_held: int | None
    breaks: str
    pros: str = ""
    cons: str = ""
    held_at_least: bool = False


@dataclass(frozen=True, slots=True)
class Offer:
    """What 1,000 images cost on one kind of GPU at the same SLO; `remark` says why that is unknown, or adds to it."""

    gpu: str
    gpus: int | None = None
    p95: float | None = None
    dollars: float | None = None
    watt_hours: float | None = None
    wh_is_bound: bool = False
    remark: str = ""


@dataclass(frozen=True, slots=True)
class ChangedInput:
    """The number of GPUs that are needed behind one queue if an input changes; None: no number is enough."""

    what: str
    gpus: int | None


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """p95 of total time in seconds, and dollars per image, when `people` people share the GPUs."""

    people: int
    p95: float
    days_held: int
    cost_per_image: float | None


@dataclass(frozen=True, slots=True)
class PeopleCurve:
    """How `gpus` GPUs behind one queue perform for other numbers of people, in ascending order.

    knee: the most people for whom the SLO is met; 0 if not even for one. knee_at_least: more were not tried. margin:
    80 % of the knee, which leaves room for inputs that are wrong by 20 %.
    """

    gpus: int
    knee: int
    knee_at_least: bool
    points: tuple[CurvePoint, ...]

    @property
    def margin(self) -> int:
        return int(0.8 * self.knee)

    def at(self, people: int) -> CurvePoint | None:
        return next((point for point in self.points if point.people == people), None)


@dataclass(frozen=True, slots=True)
class CapacityPlan:
    """The answer: `rows` in the order of the strategies, and the `best` of them."""

    question: PlanQuestion
    rows: tuple[StrategyRow, ...]
    best: StrategyRow | None
    offers: tuple[Offer, ...]
    changes: tuple[ChangedInput, ...]
    stands_on: tuple[str, ...]
    notes: tuple[str, ...]
