"""The GPUs that a plan can choose from: a dated TOML file, edited by the user, with a source for each figure."""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Iterable
from importlib.resources import files
from typing import Annotated, Literal

import msgspec

from pytest_comfyload.errors import UsageError, nearest

__all__ = ["GpuFile", "GpuKind", "Price", "PublishedFigure", "RuleOfThumb", "age_of", "shipped_gpus"]

OLD = datetime.timedelta(days=180)

Positive = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Price in dollars per second: of a serverless worker while it is on, and of an always-on one."""

    per_second: Positive
    always_on_per_second: Positive
    source: Name
    date: datetime.date | None = None


class GpuKind(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of GPU. `board_watts`: maximum power according to its vendor; `idle_watts`: as measured, if known."""

    name: Name
    vram_gb: Positive
    board_watts: Positive | None = None
    idle_watts: Positive | None = None
    price: Price | None = None


class WorkloadNeeds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    title: Name
    vram_gb: Positive | None = None


class PublishedFigure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds per image of a workload on a warm GPU, and what that figure is based on."""

    gpu: Name
    workload: Name
    seconds: Positive
    steps: Annotated[int, msgspec.Meta(ge=1)]
    size: Name
    software: Name
    source: Name
    kind: Literal["measured", "vendor", "community"]
    date: datetime.date | None = None


class RuleOfThumb(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rule of thumb for a GPU, given without model, size, steps or software: ranges (least, most)."""

    images_per_minute: tuple[Positive, Positive]
    queued_users: tuple[Positive, Positive]

    @property
    def seconds(self) -> float:
        """Seconds per image, at the middle of the range."""
        return 120 / sum(self.images_per_minute)


class FleetRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    people: Annotated[int, msgspec.Meta(ge=1)]
    images_per_day: Positive
    gpus: Annotated[int, msgspec.Meta(ge=1)]
    gpu: Name


class GpuFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    gpu: dict[str, GpuKind]
    workload: dict[str, WorkloadNeeds] = {}
    figure: tuple[PublishedFigure, ...] = ()
    rule_of_thumb: dict[str, RuleOfThumb] = {}
    fleet_rule: tuple[FleetRule, ...] = ()

    @staticmethod
    def parse(text: str, source: str) -> GpuFile:
        """Parse a GPU file. Raises: UsageError with the place of the first mistake."""
        try:
            read = msgspec.convert(tomllib.loads(text), GpuFile)
        except (tomllib.TOMLDecodeError, msgspec.ValidationError, RecursionError) as error:
            raise UsageError(f"{source}: {str(error)[:200]}") from None
        named = [*(each.gpu for each in read.figure), *(each.gpu for each in read.fleet_rule), *read.rule_of_thumb]
        for name in named:
            if name not in read.gpu:
                raise UsageError(f"{source}: no [gpu.{name}]; there are {nearest(name, read.gpu)}")
        for each in read.figure:
            if each.workload not in read.workload:
                raise UsageError(
                    f"{source}: no [workload.{each.workload}]; there are {nearest(each.workload, read.workload)}"
                )
        return read

    def named(self, name: str) -> GpuKind:
        """Return a GPU by its key. Raises: UsageError."""
        if name not in self.gpu:
            raise UsageError(f"--gpu {name!r} is not in the GPU file: {nearest(name, self.gpu)}; --gpus FILE adds some")
        return self.gpu[name]

    def key_of(self, device: str) -> str | None:
        """Return the key of the GPU whose name is part of a device name, such as `cuda:0 NVIDIA L4 : native`."""
        found = [key for key, gpu in self.gpu.items() if gpu.name.lower() in device.lower()]
        return max(found, key=lambda key: len(self.gpu[key].name), default=None)

    def figure_of(self, gpu: str, workload: str) -> PublishedFigure | None:
        """Return the best figure: measured before vendor before community."""
        found = [each for each in self.figure if (each.gpu, each.workload) == (gpu, workload)]
        return min(found, key=lambda each: ("measured", "vendor", "community").index(each.kind), default=None)

    def figures_of(self, workload: str) -> dict[str, PublishedFigure]:
        """Return the best figure of each GPU that has one."""
        found = {gpu: self.figure_of(gpu, workload) for gpu in self.gpu}
        return {gpu: figure for gpu, figure in found.items() if figure is not None}

    def known_for(self, mix: Iterable[str] | None) -> list[str]:
        """Return the GPUs with figures for all workloads of a mix; without a mix, those with a rule of thumb."""
        if mix is None:
            return list(self.rule_of_thumb)
        return [gpu for gpu in self.gpu if all(self.figure_of(gpu, name) for name in mix)]


def age_of(date: datetime.date | None, today: datetime.date) -> str | None:
    """Return a remark on a figure's date; None while it is recent."""
    if date is None:
        return "date unknown"
    return f"of {date.isoformat()}, older than 180 days" if today - date > OLD else None


def shipped_gpus() -> str:
    """Return the text of the GPU file that the package ships."""
    return (files("pytest_comfyload.capacity") / "gpus.toml").read_text(encoding="utf-8")
