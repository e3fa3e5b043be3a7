"""Goodput is what came in time: a prompt counts if it succeeded and every time that has a bound kept it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from pytest_comfyload.errors import UsageError, nearest
from pytest_comfyload.metrics.metric import Metric
from pytest_comfyload.metrics.units import parse_duration
from pytest_comfyload.result.outcome import PHASES, Outcome

__all__ = ["Goodput", "in_time", "parse_bounds"]

_TIMES = ("total_time", *PHASES)


@dataclass(frozen=True, slots=True, eq=False)
class Goodput:
    """`share`: percent of the submitted prompts. `rate`: prompts per minute that ended in the window.

    Some tools mean the one by goodput, some the other: it is no number by itself.
    """

    share: Metric
    rate: Metric

    def _refuse(self, other: object) -> NoReturn:
        raise UsageError("a goodput is no number: compare its .share (percent) or its .rate (prompts per minute)")

    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = _refuse
    __hash__ = object.__hash__


def parse_bounds(bounds: Mapping[str, object]) -> dict[str, float]:
    """Seconds by time. Raises: UsageError, with the legal names."""
    if not bounds:
        raise UsageError("goodput(): give it a bound, such as goodput(total_time=30)")
    for name in bounds:
        if name not in _TIMES:
            raise UsageError(f"goodput({name}=…): there is no such time; legal: {nearest(name, _TIMES)}")
    parsed = {name: parse_duration(value, f"goodput: {name}") for name, value in bounds.items()}
    for name, bound in parsed.items():
        if bound <= 0:
            raise UsageError(f"goodput({name}={bounds[name]!r}): a bound is a time above 0, such as 30 or '30s'")
    return parsed


def in_time(outcome: Outcome, bounds: Mapping[str, float]) -> bool:
    """Whether the prompt succeeded within all bounds, which are in time themselves."""
    times = ((getattr(outcome, name), bound) for name, bound in bounds.items())
    return outcome.succeeded and all(time is not None and time <= bound for time, bound in times)
