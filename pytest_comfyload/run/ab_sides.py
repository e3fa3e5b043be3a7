"""A and B as scenarios: what they have in common, and what each has of its own. What cannot be meant is refused."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pytest_comfyload.errors import UsageError, WorkflowError
from pytest_comfyload.metrics.comparable import ComparedFigure, compared
from pytest_comfyload.metrics.paired import FEWEST_PAIRS
from pytest_comfyload.scenario.arguments import whole_number
from pytest_comfyload.scenario.scenario import Scenario, planned_duration
from pytest_comfyload.workflow.graph import Graph, InputRef
from pytest_comfyload.workflow.inputs import spots_at
from pytest_comfyload.workflow.object_info import UNKNOWN
from pytest_comfyload.workflow.workflow import Workflow

__all__ = ["SIDES", "ABSides", "Side", "shown"]

Side = Literal["A", "B"]
SIDES: tuple[Side, Side] = ("A", "B")
# What the two runs of a pair have in common, or the whole comparison.
_OF_BOTH = ("seed", "gate", "id")
_SOURCES = {"workflow", "mix"}


@dataclass(frozen=True, slots=True)
class ABSides:
    """`own`: what was said of each side alone."""

    scenarios: Mapping[Side, Scenario]
    own: Mapping[Side, Mapping[str, Any]]
    pairs: int
    seed: int = field(default_factory=lambda: secrets.randbelow(2**31))

    @classmethod
    def of(cls, A: object, B: object, common: Mapping[str, Any], pairs: int) -> ABSides:
        """`common`: the arguments of both. Raises: UsageError."""
        if whole_number(pairs, "pairs") < 2:
            raise UsageError(f"pairs={pairs}: two pairs make an interval, {FEWEST_PAIRS} a verdict")
        own: dict[Side, Mapping[str, Any]] = {"A": _own("A", A), "B": _own("B", B)}
        _refuse_unused(common, own)
        scenarios = {side: _scenario(side, common, own[side]) for side in SIDES}
        if scenarios["A"] == scenarios["B"]:
            raise UsageError("A and B are the same load: give what differs between them")
        made = cls(scenarios, own, pairs)
        if not made.gate.scale.relative:
            raise UsageError(
                f"gate={made.gate.title!r} can be 0, and A and B are compared by ratio: gate on a time of work, "
                "such as 'generation_time.p50', or on 'throughput'"
            )
        seed = scenarios["A"].seed
        return made if seed is None else dataclasses.replace(made, seed=seed)

    @property
    def gate(self) -> ComparedFigure:
        """Raises: UsageError for no figure."""
        gates = self.scenarios["A"].gates
        if len(gates) > 1:
            raise UsageError(f"gate={list(gates)!r}: run_ab has one verdict, on one figure; name that one")
        return compared(gates[0])

    @property
    def planned(self) -> float | None:
        """Seconds of all runs without their warm-ups; None where that depends on the server."""
        each = [planned_duration([part for _, part in self.scenarios[side].parts]) for side in SIDES]
        return None if None in each else self.pairs * sum(filter(None, each))

    def scenario(self, side: Side, pair: int) -> Scenario:
        """Each pair has seeds of its own: the same ones once more would come from the server's cache."""
        return dataclasses.replace(self.scenarios[side], seed=self.seed + pair)

    def refuse_overridden(self, overrides: Iterable[str], files: Path) -> None:
        """The command line's inputs are above all, and would make A and B the same. Raises: UsageError."""
        for side in SIDES:
            for graph in self._graphs(side, files) if overrides else ():
                for address in self.own[side].get("inputs") or ():
                    for override in overrides:
                        if _spots(graph, address) & _spots(graph, override):
                            raise UsageError(
                                f"--comfyui-input {override} and {side}'s input {address} contradict each other; "
                                "leave the former out"
                            )

    def _graphs(self, side: Side, files: Path) -> Iterator[Graph]:
        for _, part in self.scenarios[side].parts:
            for source, _ in part.workflows:
                yield Workflow.load(source, root=files).graph


def shown(name: str, value: object) -> object:
    """The value of an argument for a message; extra_data may hold API keys."""
    return "{…}" if name == "extra_data" else value


def _own(side: Side, arguments: object) -> Mapping[str, Any]:
    if not isinstance(arguments, Mapping):
        raise UsageError(
            f"{side}={arguments!r} is not a dict of arguments, such as {{'inputs': {{'KSampler.steps': 20}}}}"
        )
    for name in _OF_BOTH:
        if name in arguments:
            raise UsageError(f"{side}: {name}= is the same for A and B; give it to run_ab itself")
    return arguments


def _refuse_unused(common: Mapping[str, Any], own: Mapping[Side, Mapping[str, Any]]) -> None:
    """What both say otherwise is said in vain; but inputs are joined."""
    for name in common:
        if name != "inputs" and all(name in own[side] for side in SIDES):
            raise UsageError(
                f"{name}={shown(name, common[name])!r} and the {name}= of both A and B contradict each other; "
                "leave the first out"
            )


def _scenario(side: Side, common: Mapping[str, Any], own: Mapping[str, Any]) -> Scenario:
    # A mix stands for a workflow, and a workflow for a mix.
    replaced = _SOURCES if _SOURCES & own.keys() else set()
    arguments = {**{name: value for name, value in common.items() if name not in replaced}, **own}
    if common.get("inputs") and own.get("inputs"):
        arguments["inputs"] = {**common["inputs"], **own["inputs"]}
    try:
        scenario = Scenario.build(**arguments)
    except UsageError as error:
        raise UsageError(f"{side}: {error}") from None
    if scenario.warmup == 0:
        raise UsageError("warmup=0 and run_ab contradict each other: before each run the other's models are in place")
    return scenario


def _spots(graph: Graph, address: str) -> set[InputRef]:
    """None where the workflow has no such node."""
    try:
        return set(spots_at(graph, address, UNKNOWN, "the workflow"))
    except WorkflowError:
        return set()
