"""What is asked of a capacity plan, and its answer."""

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
    """Args:
    workload: Who asks for what.
    slo: What has to hold on `share` of the days.
    services: What is known of GPUs for this mix; the first is the one that is asked about, the others are its
        alternatives.
    gpus: The GPU file.
    strategy: Only this one, with all its variants; None: each strategy's main variant.
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
    """One way to serve the people; `evaluation` is None where no number of GPUs does, and `breaks` says why.

    people_held: None where it is not counted; at least so many where `held_at_least`.
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
    """What 1,000 images cost on one kind of GPU at the same SLO; `remark` where that is not known."""

    gpu: str
    gpus: int | None = None
    p95: float | None = None
    dollars: float | None = None
    watt_hours: float | None = None
    wh_is_bound: bool = False
    remark: str = ""


@dataclass(frozen=True, slots=True)
class ChangedInput:
    """How many GPUs it takes behind one queue where an input is another; None: no number does."""

    what: str
    gpus: int | None


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """p95 of total time, in seconds, and dollars of an image, when so many people share the GPUs."""

    people: int
    p95: float
    days_held: int
    cost_per_image: float | None


@dataclass(frozen=True, slots=True)
class PeopleCurve:
    """What so many GPUs behind one queue do for other numbers of people, in ascending order.

    knee: the most people for whom the SLO holds; 0 where it holds for fewer than one. `knee_at_least`: more were not
    tried. margin: 80 % of it, which inputs that are wrong by 20 % leave standing.
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
    """The answer: rows in the order of the strategies, the best of them first in `best`."""

    question: PlanQuestion
    rows: tuple[StrategyRow, ...]
    best: StrategyRow | None
    offers: tuple[Offer, ...]
    changes: tuple[ChangedInput, ...]
    stands_on: tuple[str, ...]
    notes: tuple[str, ...]
