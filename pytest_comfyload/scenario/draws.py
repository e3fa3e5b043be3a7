"""What the user set in `inputs`: one value, or several of which each prompt draws one; texts may name their prompt."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_comfyload.errors import WorkflowError
from pytest_comfyload.scenario.distributions import Distribution
from pytest_comfyload.scenario.graph import Graph, Spot, link_of
from pytest_comfyload.scenario.inputs import placed
from pytest_comfyload.scenario.spread import Spread, read_spread

__all__ = ["Setting", "filled", "is_unique", "read_setting"]

_FIELD = re.compile(r"\{(seed|index|user|iteration)\}")


@dataclass(frozen=True, slots=True)
class Setting:
    """One address of `inputs`. An option holds the value for every spot of the address; equal chances without weights.

    The address stays as the user wrote it: it names the value in every outcome.
    """

    address: str
    options: tuple[Mapping[Spot, Any], ...]
    weights: tuple[float, ...] | None = None

    @property
    def first(self) -> Mapping[Spot, Any]:
        """Values that stand for all."""
        return self.options[0]

    def told(self, spot: Spot) -> Any:
        """What may come there, for a person."""
        values = [option[spot] for option in self.options]
        return values if len(values) > 1 else values[0]

    def draw(self, rng: random.Random) -> Mapping[Spot, Any]:
        """One option; of a single one, without touching `rng`."""
        if len(self.options) == 1:
            return self.options[0]
        return rng.choices(self.options, self.weights)[0]

    @property
    def spots(self) -> frozenset[Spot]:
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
    graph: Graph, address: str, value: Any, object_info: Mapping[str, Any] | None, name: str
) -> Setting | Spread:
    """`value` is one value, a list to draw from, a dict of value to weight, or a distribution.

    `name` is the workflow's. Raises WorkflowError.
    """
    if isinstance(value, Distribution):
        return read_spread(graph, address, value, object_info, name)
    values, weights = _choices(address, value)
    if any(isinstance(each, Distribution) for each in values):
        raise WorkflowError(f"{address} = {value!r}: a distribution stands alone, not among values to choose from")
    options = tuple(placed(graph, {address: each}, object_info, name) for each in values)
    return Setting(address, options, weights)


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
