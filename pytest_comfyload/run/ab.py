"""B against A: pairs of runs with the same seeds, in the order ABBA, so that what drifts touches both alike.

Each run begins on servers without cached results and models: the second run of a pair would take from the cache what
both have in common, and its memory would hold the models of the first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.paired import FEWEST_PAIRS, abba
from pytest_comfyload.metrics.units import format_duration, format_value
from pytest_comfyload.result.ab_figure import value_at
from pytest_comfyload.result.ab_result import ABResult
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.run.ab_sides import SIDES, ABSides, Side, shown
from pytest_comfyload.scenario.scenario import Scenario, WorkflowSource

__all__ = ["RunHalf", "Turn", "run_ab"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One of so many `runs`; it and its `pair` count from 1."""

    side: Side
    number: int
    runs: int

    @property
    def pair(self) -> int:
        return (self.number + 1) // 2


RunHalf = Callable[[Scenario, Turn], LoadResult]


def run_ab(
    workflow: WorkflowSource | None = None,
    *,
    A: Mapping[str, Any],
    B: Mapping[str, Any],
    pairs: int = 8,
    title: str,
    half: RunHalf,
    overrides: Mapping[str, str] | None = None,
    files: Path = Path(),
    say: Callable[[str], None] = lambda line: None,
    clock: Callable[[], float] = time.monotonic,
    **common: Any,
) -> ABResult:
    """Further arguments are those of `load_scenario`; `A` and `B` are what each has of its own.

    `half` runs one half of a pair, on servers that it has emptied (`LoadRun.emptied`). `overrides` are the command
    line's inputs; relative paths are looked up in `files`. After an invalid run there is no other.

    Raises: UsageError, for most before anything runs; ServerError.
    """
    sides = ABSides.of(A, B, {**({} if workflow is None else {"workflow": workflow}), **common}, pairs)
    sides.refuse_overridden(overrides or {}, files)
    say(f"comfyload: {title}: {_announcement(sides)}")
    began = clock()
    loads: dict[Side, list[LoadResult]] = {"A": [], "B": []}
    invalid = None
    for turn in _turns(sides.pairs):
        load = half(sides.scenario(turn.side, turn.pair), turn)
        loads[turn.side].append(load)
        if load.invalid_because is not None:
            invalid = f"{turn.side} of pair {turn.pair}: {load.invalid_because}"
            break
        if turn.number == 2 * turn.pair:
            a, b = (loads[side][-1] for side in SIDES)
            _refuse_mixed(a, b)
            say(f"comfyload: {title}: {_stand(sides, turn, a, b, clock() - began)}")
    gate = sides.gate
    return ABResult(title, tuple(loads["A"]), tuple(loads["B"]), gate.title, gate.scale.higher_is_better, invalid)


def _turns(pairs: int) -> list[Turn]:
    return [Turn("A" if side == "A" else "B", number, 2 * pairs) for number, side in enumerate(abba(pairs), 1)]


def _refuse_mixed(a: LoadResult, b: LoadResult) -> None:
    if a.simulated != b.simulated:
        real, simulated = (b, a) if a.simulated else (a, b)
        urls = [", ".join(load.facts.servers) for load in (real, simulated)]
        raise UsageError(f"{urls[0]} is real and {urls[1]} simulated: those are never compared")


def _announcement(sides: ABSides) -> str:
    """What will run, and how long, as far as that can be known; otherwise the first run says it after its warm-up."""
    described = dict.fromkeys(str(sides.scenarios[side]) for side in SIDES)
    parts = [f"{sides.pairs} pairs of runs, {' / '.join(described)}"]
    if sides.planned is not None:
        parts.append(f"{format_duration(sides.planned)} and the warm-ups")
    parts += [f"{side}: {_told(sides.own[side])}" for side in SIDES]
    if sides.pairs < FEWEST_PAIRS:
        parts.append(f"inconclusive in any case: {sides.pairs} pairs decide nothing, {FEWEST_PAIRS} do")
    return "; ".join(parts)


def _told(own: Mapping[str, Any]) -> str:
    """`KSampler.steps=20, users=2`"""
    said = {**(own.get("inputs") or {}), **{name: value for name, value in own.items() if name != "inputs"}}
    return ", ".join(f"{name}={shown(name, value)}" for name, value in said.items()) or "as it is"


def _stand(sides: ABSides, turn: Turn, a: LoadResult, b: LoadResult, elapsed: float) -> str:
    """`pair 3 of 8: generation_time.p50 A 0.42 s, B 0.84 s; about 2 min 10 s left`"""
    values = (value_at(load.to_dict(), sides.gate.name) for load in (a, b))
    both = ", ".join(
        f"{side} {format_value(value, sides.gate.unit)}" for side, value in zip(SIDES, values, strict=True)
    )
    left = elapsed * (turn.runs - turn.number) / turn.number
    rest = f"; about {_rough(left)} left" if turn.number < turn.runs else ""
    return f"pair {turn.pair} of {sides.pairs}: {sides.gate.title} {both}{rest}"


def _rough(seconds: float) -> str:
    return format_duration(round(seconds)) if round(seconds) >= 60 else f"{round(seconds)} s"
