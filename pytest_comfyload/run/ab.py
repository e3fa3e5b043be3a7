"""A/B comparisons: pairs of runs with the same seeds, in ABBA order, so that drift affects both sides equally.

Each run starts on servers without cached results or loaded models. Otherwise the second run of a pair would take from
the cache what both have in common, and would find the models of the first in memory.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_comfyload.errors import UsageError, WorkflowError
from pytest_comfyload.metrics.comparable import ComparedFigure, compared
from pytest_comfyload.metrics.paired import FEWEST_PAIRS, abba
from pytest_comfyload.metrics.registry import GATE
from pytest_comfyload.metrics.units import format_duration, format_value
from pytest_comfyload.report.live import test_name
from pytest_comfyload.result.ab_figure import value_at
from pytest_comfyload.result.ab_result import ABResult
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.run_facts import ABHalf
from pytest_comfyload.run.ab_servers import LAUNCHED, SIDES, ABServers, Side
from pytest_comfyload.run.observer import LINE_PERIOD
from pytest_comfyload.scenario.argument_values import whole_number
from pytest_comfyload.scenario.scenario import Scenario, WorkflowSource, planned_duration
from pytest_comfyload.workflow.graph import InputRef
from pytest_comfyload.workflow.workflow import Workflow

__all__ = ["ABSides", "RunHalf", "Turn", "run_ab", "shown"]


@dataclass(frozen=True, slots=True)
class Turn:
    """The place of a run in a comparison: its number among `runs`, and its half of a pair. Both count from 1."""

    number: int
    runs: int
    half: ABHalf

    @property
    def side(self) -> Side:
        return self.half.side

    @property
    def pair(self) -> int:
        return self.half.pair


RunHalf = Callable[[Scenario, Turn], LoadResult]


def run_ab(
    workflow: WorkflowSource | None = None,
    *,
    A: Mapping[str, Any],
    B: Mapping[str, Any],
    pairs: int = 8,
    title: str,
    half: RunHalf,
    launched: ABServers | None = None,
    overrides: Mapping[str, str] | None = None,
    files: Path = Path(),
    say: Callable[[str], None] = lambda line: None,
    clock: Callable[[], float] = time.monotonic,
    **common: Any,
) -> ABResult:
    """Compare B to A in pairs of runs. A run that is invalid, or in which every prompt failed, is the last.

    Args:
        workflow: The workflow of both sides.
        A: The arguments that only A has.
        B: The arguments that only B has.
        pairs: The number of pairs.
        title: The title of the comparison.
        half: Runs one half of a pair, on servers that it has emptied (`LoadRun.half`).
        launched: The servers that are launched for the sides, if any.
        overrides: The inputs from the command line.
        files: The folder in which relative paths are looked up.
        say: Called with each line of progress.
        clock: Returns the time in seconds.
        common: Further arguments of both sides, those of `load_scenario`.

    Raises:
        UsageError: Something is wrong with the arguments, which is mostly found before anything runs.
        ServerError: A server failed.
    """
    both = {**({} if workflow is None else {"workflow": workflow}), **common}
    sides = ABSides.of(A, B, both, pairs, files)
    sides.refuse_overridden(overrides or {}, files)
    if launched is not None and (classes := launched.node_classes()) is not None:
        sides = ABSides.of(A, B, {**both, **sides.of_a_node(classes, common, files)}, pairs, files)
    labels, notes = (launched.labels, launched.notes) if launched is not None else (None, ())
    say(f"comfyload: {test_name(title)}: {_announcement(sides, labels)}")
    began = said = clock()
    loads: dict[Side, list[LoadResult]] = {"A": [], "B": []}
    invalid = None
    for turn in _turns(sides.pairs, title, labels):
        load = half(sides.scenario(turn.side, turn.pair), turn)
        loads[turn.side].append(load)
        if why := load.invalid_because or _without_success(load):
            invalid = f"{turn.side} of pair {turn.pair}: {why}"
            break
        if turn.number == 2 * turn.pair:
            a, b = (loads[side][-1] for side in SIDES)
            _refuse_mixed(a, b)
            now = clock()
            if turn.pair in (1, sides.pairs) or now - said >= LINE_PERIOD:
                said = now
                say(f"comfyload: {test_name(title)}: {_stand(sides, turn, a, b, said - began)}")
    gates = tuple(gate.title for gate in sides.gates)
    return ABResult(title, tuple(loads["A"]), tuple(loads["B"]), gates, invalid, labels, notes)


def _turns(pairs: int, title: str, labels: tuple[str, str] | None) -> Iterator[Turn]:
    comparison = secrets.token_hex(8)
    for number, side in enumerate(abba(pairs), 1):
        half = ABHalf(comparison, title, "A" if side == "A" else "B", (number + 1) // 2, labels)
        yield Turn(number, 2 * pairs, half)


def _refuse_mixed(a: LoadResult, b: LoadResult) -> None:
    if a.simulated != b.simulated:
        real, simulated = (b, a) if a.simulated else (a, b)
        urls = [", ".join(load.facts.servers) for load in (real, simulated)]
        raise UsageError(f"{urls[0]} is real and {urls[1]} simulated: these are never compared")


def _without_success(load: LoadResult) -> str | None:
    """Return a sentence if no prompt of a run succeeded, with how the first one failed; None otherwise."""
    if any(outcome.succeeded for outcome in load.outcomes):
        return None
    failed = next(iter(load.outcomes), None)
    if failed is None:
        return "no prompt was sent"
    why = f": {failed.error}" if failed.error else ""
    return f"no prompt succeeded; the first ended as {failed.status}{why}"


def _announcement(sides: ABSides, labels: tuple[str, str] | None) -> str:
    """Return what will run, and for how long if that is known; otherwise the first run reports it after its warm-up."""
    described = dict.fromkeys(str(sides.scenarios[side]) for side in SIDES)
    parts = [f"{sides.pairs} pairs of runs, {' / '.join(described)}"]
    if sides.planned is not None:
        parts.append(f"{format_duration(sides.planned)} and the warm-ups")
    servers = dict(zip(SIDES, labels, strict=True)) if labels else {}
    parts += [f"{side}: {_told(sides.own[side], servers.get(side))}" for side in SIDES]
    if sides.pairs < FEWEST_PAIRS:
        parts.append(f"always inconclusive: {sides.pairs} pairs are too few for a verdict, which needs {FEWEST_PAIRS}")
    return "; ".join(parts)


def _told(own: Mapping[str, Any], server: str | None) -> str:
    """Return what one side has of its own, such as `my-node 042b91c, KSampler.steps=20, users=2`."""
    others = {name: value for name, value in own.items() if name != "inputs" and name not in LAUNCHED}
    said = [f"{name}={shown(name, value)}" for name, value in {**(own.get("inputs") or {}), **others}.items()]
    return ", ".join([*([server] if server else []), *said]) or "as it is"


def _stand(sides: ABSides, turn: Turn, a: LoadResult, b: LoadResult, elapsed: float) -> str:
    """Return the progress: `pair 3 of 8: generation_time.p50 A 0.42 s, B 0.84 s; about 2 min 10 s left`."""
    gate = sides.gates[0]
    values = (value_at(load.to_dict(), gate.name) for load in (a, b))
    both = ", ".join(f"{side} {format_value(value, gate.unit)}" for side, value in zip(SIDES, values, strict=True))
    left = elapsed * (turn.runs - turn.number) / turn.number
    rest = f"; about {_rough(left)} left" if turn.number < turn.runs else ""
    return f"pair {turn.pair} of {sides.pairs}: {gate.title} {both}{rest}"


def _rough(seconds: float) -> str:
    return format_duration(round(seconds)) if round(seconds) >= 60 else f"{round(seconds)} s"


# Arguments that both runs of a pair share, or the whole comparison.
_OF_BOTH = ("seed", "gate", "id")
_SOURCES = {"workflow", "mix"}
# Default `max_send_lag` for comparisons of a custom node.
_PATIENCE = "1s"


@dataclass(frozen=True, slots=True)
class ABSides:
    """The two sides of a comparison. `own` has the arguments that were given for each side alone."""

    scenarios: Mapping[Side, Scenario]
    own: Mapping[Side, Mapping[str, Any]]
    pairs: int
    seed: int = field(default_factory=lambda: secrets.randbelow(2**31))

    @classmethod
    def of(cls, A: object, B: object, common: Mapping[str, Any], pairs: int, files: Path = Path()) -> ABSides:
        """Return the sides with the arguments of each and the `common` ones. Raises: UsageError.

        Relative paths are looked up in `files`.
        """
        if whole_number(pairs, "pairs") < 2:
            raise UsageError(f"pairs={pairs}: two pairs make an interval, {FEWEST_PAIRS} a verdict")
        own: dict[Side, Mapping[str, Any]] = {"A": _own("A", A), "B": _own("B", B)}
        _refuse_unused(common, own)
        scenarios = {side: _scenario(side, common, own[side], files) for side in SIDES}
        if scenarios["A"] == scenarios["B"] and _server(own["A"]) == _server(own["B"]):
            raise UsageError("A and B are the same load: give what differs between them")
        made = cls(scenarios, own, pairs)
        for gate in made.gates:
            if not gate.scale.relative:
                raise UsageError(
                    f"gate={gate.title!r} can be 0, and A and B are compared by ratio: gate on a time of work, "
                    f"such as {GATE!r}, or on 'throughput'"
                )
        seed = scenarios["A"].seed
        return made if seed is None else dataclasses.replace(made, seed=seed)

    @property
    def gates(self) -> list[ComparedFigure]:
        """The figures that decide; the first is shown for each pair. Raises: UsageError for an unknown figure."""
        return list(map(compared, self.scenarios["A"].gates))

    def of_a_node(self, classes: frozenset[str], common: Mapping[str, Any], files: Path) -> dict[str, Any]:
        """Return the common arguments for the comparison of a custom node.

        Its nodes must run in every prompt, and both their time and the generation time decide. `classes` are the node
        classes of the custom node. Raises: UsageError if no workflow uses any of them.
        """
        used = {name for side in SIDES for workflow in self._workflows(side, files) for name in workflow.classes}
        ours = sorted(used & classes)
        if not ours:
            raise UsageError(
                f"no node of the workflow is of the custom node; its classes: {', '.join(sorted(classes))}"
            )
        forced = [*(common.get("must_run") or ()), *(name for name in ours)]
        gates = [*(f"node_time[{name}].p50" for name in ours), GATE]
        # Nodes are timed by the server's timestamps, which a delay of the generator does not affect.
        patience = common.get("max_send_lag") or _PATIENCE
        return {"must_run": list(dict.fromkeys(forced)), "gate": common.get("gate") or gates, "max_send_lag": patience}

    @property
    def planned(self) -> float | None:
        """Seconds of all runs without their warm-ups; None if that depends on the server."""
        each = [planned_duration([part for _, part in self.scenarios[side].parts]) for side in SIDES]
        return None if None in each else self.pairs * sum(filter(None, each))

    def scenario(self, side: Side, pair: int) -> Scenario:
        """Return a side's scenario for a pair.

        Each pair has a seed of its own, since the results for a repeated seed would come from the server's cache.
        """
        return dataclasses.replace(self.scenarios[side], seed=self.seed + pair)

    def refuse_overridden(self, overrides: Iterable[str], files: Path) -> None:
        """Reject inputs from the command line that A or B also sets, since they would make both the same.

        Raises: UsageError.
        """
        for side in SIDES:
            for workflow in self._workflows(side, files) if overrides else ():
                for address in self.own[side].get("inputs") or ():
                    for override in overrides:
                        if _spots(workflow, address) & _spots(workflow, override):
                            raise UsageError(
                                f"--comfyui-input {override} and {side}'s input {address} contradict each other; "
                                "leave the former out"
                            )

    def _workflows(self, side: Side, files: Path) -> Iterator[Workflow]:
        for _, part in self.scenarios[side].parts:
            for source, _ in part.workflows:
                yield Workflow.load(source, root=files)


def shown(name: str, value: object) -> object:
    """Return the value of an argument for a message, without extra_data, which may contain API keys."""
    return "{…}" if name == "extra_data" else value


def _server(own: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in own.items() if name in LAUNCHED}


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
    """Reject common arguments that have no effect because both sides set their own. Raises: UsageError.

    Inputs are exempt, since they are merged.
    """
    for name in common:
        if name != "inputs" and all(name in own[side] for side in SIDES):
            raise UsageError(
                f"{name}={shown(name, common[name])!r} and the {name}= of both A and B contradict each other; "
                "leave the first out"
            )


def _scenario(side: Side, common: Mapping[str, Any], own: Mapping[str, Any], files: Path) -> Scenario:
    # A side's mix replaces the common workflow, and its workflow the common mix.
    replaced = _SOURCES if _SOURCES & own.keys() else set()
    own = {name: value for name, value in own.items() if name not in LAUNCHED}
    arguments = {**{name: value for name, value in common.items() if name not in replaced}, **own}
    if common.get("inputs") and own.get("inputs"):
        arguments["inputs"] = {**common["inputs"], **own["inputs"]}
    try:
        scenario = Scenario.build_in(files, **arguments)
    except UsageError as error:
        raise UsageError(f"{side}: {error}") from None
    if scenario.warmup == 0:
        raise UsageError("warmup=0 and run_ab contradict each other: before each run the other's models are in place")
    return scenario


def _spots(workflow: Workflow, address: str) -> set[InputRef]:
    """Return the inputs at an address; empty if the workflow has no such node."""
    try:
        return set(workflow.spots_at(address))
    except WorkflowError:
        return set()
