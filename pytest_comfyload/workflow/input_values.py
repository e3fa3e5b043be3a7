"""The values of `inputs`: constants, choices, and numbers drawn from distributions."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_comfyload.errors import UsageError, WorkflowError
from pytest_comfyload.scenario.distributions import DistributionSpec, TruncatedDistribution
from pytest_comfyload.workflow.graph import Graph, InputRef, link_of, value_at
from pytest_comfyload.workflow.inputs import placed, spots_at
from pytest_comfyload.workflow.object_info import InputSpec, ObjectInfo, spec_of_present

__all__ = ["ChoiceInput", "DistributionInput", "filled", "is_unique", "read_setting", "read_spread"]

_FIELD = re.compile(r"\{(seed|index|user|iteration)\}")


@dataclass(frozen=True, slots=True)
class ChoiceInput:
    """One address of `inputs`. An option holds the value for every spot of the address; equal chances without weights.

    The address stays as the user wrote it: it names the value in every outcome.
    """

    address: str
    options: tuple[Mapping[InputRef, Any], ...]
    weights: tuple[float, ...] | None = None

    @property
    def first(self) -> Mapping[InputRef, Any]:
        """Values that stand for all."""
        return self.options[0]

    def told(self, spot: InputRef) -> Any:
        """What may come there, for a person."""
        values = [option[spot] for option in self.options]
        return values if len(values) > 1 else values[0]

    def draw(self, rng: random.Random) -> Mapping[InputRef, Any]:
        """One option; of a single one, without touching `rng`."""
        if len(self.options) == 1:
            return self.options[0]
        return rng.choices(self.options, self.weights)[0]

    @property
    def spots(self) -> frozenset[InputRef]:
        return frozenset(self.first)

    @property
    def changes(self) -> bool:
        """Whether prompts differ by it."""
        return len(self.options) > 1 or any(map(_tells_prompts_apart, self.first.values()))

    @property
    def unique(self) -> bool:
        """Whether no two prompts of any runs have the same value."""
        return all(is_unique(value) for option in self.options for value in option.values())


def read_setting(
    graph: Graph, address: str, value: Any, object_info: ObjectInfo, name: str
) -> ChoiceInput | DistributionInput:
    """`value` is one value, a list to draw from, a dict of value to weight, or a distribution.

    `name` is the workflow's. Raises WorkflowError.
    """
    if isinstance(value, DistributionSpec):
        return read_spread(graph, address, value, object_info, name)
    values, weights = _choices(address, value)
    if any(isinstance(each, DistributionSpec) for each in values):
        raise WorkflowError(f"{address} = {value!r}: a distribution stands alone, not among values to choose from")
    options = tuple(placed(graph, {address: each}, object_info, name) for each in values)
    return ChoiceInput(address, options, weights)


def filled(value: Any, fields: Mapping[str, int]) -> Any:
    """A text with `{seed}`, `{index}`, `{user}` and `{iteration}` filled in; other braces and other values stay."""
    if not isinstance(value, str):
        return value
    return _FIELD.sub(lambda match: str(fields.get(match[1], match[0])), value)


def is_unique(value: Any) -> bool:
    """Whether a value, once filled in, is another one in each prompt of each run; `{index}` begins anew with a run."""
    return isinstance(value, str) and "{seed}" in value


def _tells_prompts_apart(value: Any) -> bool:
    """Within a run."""
    return isinstance(value, str) and ("{seed}" in value or "{index}" in value)


def _choices(address: str, value: Any) -> tuple[Sequence[Any], tuple[float, ...] | None]:
    """The values and their weights; a link is a list too, but one value, and so is a dict that holds no weights."""
    if isinstance(value, list | tuple) and link_of(value) is None:
        if not value:
            raise WorkflowError(f"{address} = {value!r}: there is nothing to draw from")
        return value, None
    if isinstance(value, Mapping) and value and all(_is_number(weight) for weight in value.values()):
        weights = tuple(float(weight) for weight in value.values())
        if min(weights) < 0 or not 0 < sum(weights) < math.inf:
            raise WorkflowError(f"{address} = {value!r}: weights are numbers from 0 on, and not all of them 0")
        return list(value), weights
    return [value], None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


NUMERIC = ("INT", "FLOAT", "NUMBER", "ANY")
ENDS = ("low", "high", "min", "max")


@dataclass(frozen=True, slots=True)
class DistributionInput:
    """One address of `inputs` whose number is drawn for each prompt, the same for every spot of the address.

    `written` is the distribution in the user's words.
    """

    address: str
    spots: frozenset[InputRef]
    law: TruncatedDistribution
    grid: Grid | None = None
    written: str = ""

    changes = True
    unique = False

    @property
    def first(self) -> Mapping[InputRef, float]:
        """Values that stand for all: the median."""
        return self._everywhere(self.law.median)

    def told(self, spot: InputRef) -> str:
        """What may come there, for a person."""
        return self.written

    def draw(self, rng: random.Random) -> Mapping[InputRef, float]:
        return self._everywhere(self.law.draw(rng))

    def _everywhere(self, number: float) -> Mapping[InputRef, float]:
        return dict.fromkeys(self.spots, number if self.grid is None else self.grid.nearest(number))


@dataclass(frozen=True, slots=True)
class Grid:
    """The whole numbers from `first` to `last` in steps of `step`."""

    first: int
    last: int
    step: int

    def nearest(self, number: float) -> int:
        return min(self.first + self.step * round((number - self.first) / self.step), self.last)

    def drawn(self, law: TruncatedDistribution) -> TruncatedDistribution:
        """`law` such that each whole number gets the share of what is nearest to it, those at the ends too."""
        return law.between(self.first - self.step / 2, self.last + self.step / 2)


def read_spread(
    graph: Graph, address: str, distribution: DistributionSpec, object_info: ObjectInfo, name: str
) -> DistributionInput:
    """Raises WorkflowError where not every number that may come is legal, or the distribution itself cannot be."""
    spots = spots_at(graph, address, object_info, name)
    specs = [_spec(graph, spot, object_info) for spot in spots]
    try:
        law = distribution.read(_number)
        for spec in specs:
            _expect_numeric(spec)
            _expect_legal(spec, distribution)
        return _fitted(DistributionInput(address, frozenset(spots), law, written=repr(distribution)), specs)
    except UsageError as error:
        raise WorkflowError(f"{address} = {distribution!r}: {error}") from None


def _fitted(spread: DistributionInput, specs: Sequence[InputSpec]) -> DistributionInput:
    law = spread.law
    law = law.between(
        max(law.low, *(spec.minimum for spec in specs if spec.minimum is not None), -math.inf),
        min(law.high, *(spec.maximum for spec in specs if spec.maximum is not None), math.inf),
    )
    whole = [spec for spec in specs if spec.kind == "INT"]
    grid = _grid(law, max(whole, key=lambda spec: spec.step or 1)) if whole else None
    law = grid.drawn(law) if grid else law
    if not law.possible:
        raise UsageError(f"next to nothing of it is legal: {specs[0].wants(law)}")
    return replace(spread, law=law, grid=grid)


def _grid(law: TruncatedDistribution, spec: InputSpec) -> Grid:
    """Steps count from the minimum: lengths of videos are 1, 5, 9…"""
    step, base = max(1, int(spec.step or 1)), int(spec.minimum or 0)
    if not (math.isfinite(law.low) and math.isfinite(law.high)):
        raise UsageError("the server names no bounds for it; give min= and max=")
    first = base + step * math.ceil((law.low - base) / step)
    last = base + step * math.floor((law.high - base) / step)
    if first > last:
        steps = f" in steps of {step}" if step > 1 else ""
        raise UsageError(f"{spec.wants(law)}{steps}, and none of these lies from {law.low:g} to {law.high:g}")
    return Grid(first, last, step)


def _expect_numeric(spec: InputSpec) -> None:
    if spec.kind not in NUMERIC:
        raise UsageError(f"only an INT or a FLOAT can be drawn so, and this is a {spec.kind}; give a list of values")


def _expect_legal(spec: InputSpec, distribution: DistributionSpec) -> None:
    """A bound that the user wrote is meant; what lies beyond the server's without one just never comes."""
    for name, value in distribution.parameters:
        if name in ENDS and not spec.admits(float(value)):
            raise UsageError(f"{name}={value}: {spec.wants(value)}")


def _spec(graph: Graph, spot: InputRef, object_info: ObjectInfo) -> InputSpec:
    known = object_info.spec(graph[spot.node]["class_type"], spot.input)
    return known or spec_of_present(value_at(graph, spot))


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**64:
        raise UsageError(f"{name}={value!r} is not a number")
    return float(value)
