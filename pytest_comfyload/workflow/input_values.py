"""Values of `inputs`: constants, choices, and numbers drawn from distributions."""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from pytest_comfyload.errors import UsageError, WorkflowError
from pytest_comfyload.scenario.distributions import DistributionSpec, TruncatedDistribution
from pytest_comfyload.workflow.graph import InputRef, link_of
from pytest_comfyload.workflow.inputs import AddressedInputs, InputType
from pytest_comfyload.workflow.object_info import InputSpec

__all__ = ["ChoiceInput", "DistributionInput", "filled", "is_unique", "read_setting", "read_spread"]

_MOST_SHOWN = 100
_FIELD = re.compile(r"\{(seed|index|user|iteration)\}")


@dataclass(frozen=True, slots=True)
class ChoiceInput:
    """One address of `inputs`, for which each prompt draws one of `values`; a single value is not drawn at random.

    Address and values are kept as the user wrote them. There may be very many values, so each is converted to the
    types that the inputs take (`takes`) only when it is drawn. `weights` are cumulative; None means equal.
    """

    address: str
    takes: Mapping[InputRef, InputType]
    values: Sequence[Any]
    weights: tuple[float, ...] | None = None

    @property
    def first(self) -> Mapping[InputRef, Any]:
        """The first option, which the graph contains."""
        return self._everywhere(self.values[0])

    @property
    def options(self) -> Iterator[Mapping[InputRef, Any]]:
        """The options: for each of the values, the value of every spot of the address."""
        return map(self._everywhere, self.values)

    def described(self, spot: InputRef) -> Any:
        """Return the value of `spot`, or the list of all values that may be drawn, for reports.

        A long list is summarized by its length and a hash, since each file of a run would repeat it.
        """
        if len(self.values) > _MOST_SHOWN:
            digest = hashlib.sha256(repr([*self.values]).encode()).hexdigest()
            return f"{len(self.values):,} values, {digest[:8]}"
        values = list(map(self.takes[spot].typed, self.values))
        return values if len(values) > 1 else values[0]

    def draw(self, rng: random.Random) -> Mapping[InputRef, Any]:
        """Draw one option; a single option is returned without using `rng`."""
        if len(self.values) == 1:
            return self.first
        return self._everywhere(rng.choices(self.values, cum_weights=self.weights)[0])

    @property
    def spots(self) -> frozenset[InputRef]:
        return frozenset(self.takes)

    @property
    def changes(self) -> bool:
        """Whether it makes prompts differ."""
        return len(self.values) > 1 or any(map(_tells_prompts_apart, self.first.values()))

    @property
    def unique(self) -> bool:
        """Whether no two prompts, even of different runs, have the same value."""
        return all(is_unique(value) for option in self.options for value in option.values())

    def _everywhere(self, value: Any) -> Mapping[InputRef, Any]:
        return {spot: takes.typed(value) for spot, takes in self.takes.items()}


def read_setting(inputs: AddressedInputs, address: str, value: Any) -> ChoiceInput | DistributionInput:
    """Read a value, a list to draw from, a dict of value to weight, or a distribution. Raises WorkflowError."""
    if isinstance(value, DistributionSpec):
        return read_spread(inputs, address, value)
    values, weights = _choices(address, value)
    if DistributionSpec in set(map(type, values)):
        raise WorkflowError(f"{address} = {value!r}: a distribution cannot be one of several values")
    takes = {spot: inputs.type_at(spot) for spot in inputs.spots_at(address)}
    for each in dict.fromkeys(takes.values()):
        inputs.expect_legal(address, each, values)
    return ChoiceInput(address, takes, values, weights)


def filled(value: Any, fields: Mapping[str, int]) -> Any:
    """Fill `{seed}`, `{index}`, `{user}` and `{iteration}` into a text; other braces and other values are unchanged."""
    if not isinstance(value, str):
        return value
    return _FIELD.sub(lambda match: str(fields.get(match[1], match[0])), value)


def is_unique(value: Any) -> bool:
    """Return whether a value, once filled in, differs in each prompt of every run; `{index}` restarts with each run."""
    return isinstance(value, str) and "{seed}" in value


def _tells_prompts_apart(value: Any) -> bool:
    """Return whether a value, once filled in, differs in each prompt of a run."""
    return isinstance(value, str) and ("{seed}" in value or "{index}" in value)


def _choices(address: str, value: Any) -> tuple[Sequence[Any], tuple[float, ...] | None]:
    """Return the values and their cumulative weights. A link or a dict without weights is a single value."""
    if isinstance(value, list | tuple) and link_of(value) is None:
        if not value:
            raise WorkflowError(f"{address} = {value!r}: there is nothing to draw from")
        return value, None
    if isinstance(value, Mapping) and value and all(_is_number(weight) for weight in value.values()):
        weights = tuple(float(weight) for weight in value.values())
        if min(weights) < 0 or not 0 < sum(weights) < math.inf:
            raise WorkflowError(f"{address} = {value!r}: weights are numbers from 0 on, and not all of them 0")
        return list(value), tuple(accumulate(weights))
    return [value], None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


NUMERIC = ("INT", "FLOAT", "NUMBER", "ANY")
ENDS = ("low", "high", "min", "max")


@dataclass(frozen=True, slots=True)
class DistributionInput:
    """One address of `inputs` whose number is drawn for each prompt; all its spots get the same number.

    `written` is the distribution as the user wrote it.
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
        """The median, which the graph contains."""
        return self._everywhere(self.law.median)

    def described(self, spot: InputRef) -> str:
        """Return the distribution as the user wrote it, for reports."""
        return self.written

    def draw(self, rng: random.Random) -> Mapping[InputRef, float]:
        return self._everywhere(self.law.draw(rng))

    def _everywhere(self, number: float) -> Mapping[InputRef, float]:
        return dict.fromkeys(self.spots, number if self.grid is None else self.grid.nearest(number))


@dataclass(frozen=True, slots=True)
class Grid:
    """The integers from `first` to `last` in steps of `step`."""

    first: int
    last: int
    step: int

    def nearest(self, number: float) -> int:
        return min(self.first + self.step * round((number - self.first) / self.step), self.last)

    def drawn(self, law: TruncatedDistribution) -> TruncatedDistribution:
        """Widen `law` so that each integer, including both ends, gets the share of the numbers nearest to it."""
        return law.between(self.first - self.step / 2, self.last + self.step / 2)


def read_spread(inputs: AddressedInputs, address: str, distribution: DistributionSpec) -> DistributionInput:
    """Read a distribution. Raises WorkflowError if it is invalid or could draw illegal numbers."""
    spots = inputs.spots_at(address)
    specs = [inputs.type_at(spot).text for spot in spots]
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
        raise UsageError(f"almost none of its values are legal: {specs[0].wants(law)}")
    return replace(spread, law=law, grid=grid)


def _grid(law: TruncatedDistribution, spec: InputSpec) -> Grid:
    """Return the legal integers. Steps count from the minimum: video lengths are 1, 5, 9…"""
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
        raise UsageError(
            f"only INT and FLOAT can be drawn from a distribution, this is {spec.kind}; give a list of values"
        )


def _expect_legal(spec: InputSpec, distribution: DistributionSpec) -> None:
    """Raise UsageError for a bound given by the user beyond the server's; without one, the server's bounds apply."""
    for name, value in distribution.parameters:
        if name in ENDS and not spec.admits(float(value)):
            raise UsageError(f"{name}={value}: {spec.wants(value)}")


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**64:
        raise UsageError(f"{name}={value!r} is not a number")
    return float(value)
