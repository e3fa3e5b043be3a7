"""Capacity search on real servers: its loads are scenarios, and its clock is the servers' time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from pytest_comfyload.capacity.answer import Capacity
from pytest_comfyload.capacity.search import Wanted, search
from pytest_comfyload.capacity.solve import Arrival, System
from pytest_comfyload.errors import UsageError, nearest
from pytest_comfyload.metrics.slo import Slo
from pytest_comfyload.metrics.units import parse_duration
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.scenario.arguments import fixed_by
from pytest_comfyload.scenario.executors import RecordedArrivals
from pytest_comfyload.scenario.scenario import Scenario, WorkflowSource

__all__ = ["find_capacity"]

WARM_UP_ITERATIONS = 3


def find_capacity(
    workflow: WorkflowSource,
    *,
    slo: str,
    budget: float | str = "45m",
    arrival: Arrival = "poisson",
    think_time: float | str = 0,
    people: object = None,
    server_count: int,
    run: Callable[[Scenario, str], LoadResult],
    clock: Callable[[], float] = time.monotonic,
    **scenario: Any,
) -> Capacity:
    """Search for the largest load at which `slo` is met; further arguments are those of `load_scenario`.

    `run` runs a scenario under a title, on `server_count` servers. `people` describes what one person sends, in place
    of `arrival`: the load is then a number of people, and the SLO has to be met on most of their days. `budget` is in
    the servers' time (virtual on simulated servers).

    Raises: UsageError, ServerError.
    """
    system = System(_arrival(arrival), server_count, _thinking(think_time, arrival))
    if people is not None:
        system = _crowd(people, arrival, server_count, scenario.get("seed") or 0)
    wanted = Wanted(Slo.parse(slo), system, _budget(budget))
    bench = _Scenarios(workflow, _undecided(scenario), server_count, run, clock, began=clock())
    bench.check(arrival)
    return search(wanted, bench, random.Random(scenario.get("seed") or 0))


@dataclass(slots=True)
class _Scenarios:
    """Runner of a search's loads. After the initial warm-up, no load needs its own."""

    workflow: WorkflowSource
    arguments: Mapping[str, Any]
    server_count: int
    run: Callable[[Scenario, str], LoadResult]
    clock: Callable[[], float]
    began: float
    time_scale: float = 1.0
    built: int = 0

    def check(self, arrival: Arrival) -> None:
        """Check the arguments. Raises: UsageError for those that only a later load would refuse."""
        if arrival == "poisson":
            self._scenario(rate="1/min", arrival="poisson", duration=60.0)
        self._scenario(users=1, duration=60.0)

    def warm_up(self) -> LoadResult:
        scenario = self._scenario(
            users=self.server_count, iterations=WARM_UP_ITERATIONS, warmup=self.arguments.get("warmup", 1)
        )
        result = self.run(scenario, "capacity: warm-up")
        self.time_scale = result.facts.time_scale or 1.0
        return result

    def users(self, count: int, think_time: float, duration: float, drain: float) -> LoadResult:
        scenario = self._scenario(users=count, think_time=think_time, duration=duration, drain=drain)
        return self.run(scenario, f"capacity: {scenario.executor}")

    def poisson(self, per_minute: float, duration: float, drain: float) -> LoadResult:
        scenario = self._scenario(rate=f"{per_minute:.6g}/min", arrival="poisson", duration=duration, drain=drain)
        return self.run(scenario, f"capacity: {scenario.executor}")

    def scheduled(self, times: tuple[float, ...], duration: float, drain: float) -> LoadResult:
        made = self._scenario(rate="1/min", arrival="poisson", duration=duration, drain=drain)
        scenario = replace(made, executor=RecordedArrivals(times, duration, f"{len(times)} prompts of people"))
        return self.run(scenario, f"capacity: {len(times)} prompts of people")

    def elapsed(self) -> float:
        return (self.clock() - self.began) * self.time_scale

    def _scenario(self, **load: Any) -> Scenario:
        scenario = Scenario.build(self.workflow, **{**self.arguments, "warmup": 0, **load})
        self.built += 1
        if scenario.seed is None:
            return scenario
        # Repeated seeds would be answered from the server's cache.
        return replace(scenario, seed=scenario.seed + self.built)


def _crowd(people: object, arrival: Arrival, servers: int, seed: int) -> System:
    from pytest_comfyload.capacity.crowd import Crowd

    if arrival != "poisson":
        raise UsageError(f"arrival={arrival!r} contradicts people=, which says how prompts arrive; leave one out")
    return Crowd.parse(people, servers, seed)


def _arrival(arrival: object) -> Arrival:
    for legal in get_args(Arrival):
        if arrival == legal:
            return legal  # type: ignore[no-any-return]
    raise UsageError(f"arrival={arrival!r}: legal: {nearest(str(arrival), get_args(Arrival))}")


def _thinking(think_time: object, arrival: Arrival) -> float:
    seconds = parse_duration(think_time, "think_time")
    if seconds and arrival != "users":
        raise UsageError(f"think_time={think_time!r} needs users: give arrival='users', or leave think_time out")
    return seconds


def _budget(budget: object) -> float:
    seconds = parse_duration(budget, "budget")
    if seconds == 0:
        raise UsageError(f'budget={budget!r} is not positive; give seconds, or a text such as "45m"')
    return seconds


def _undecided(scenario: Mapping[str, Any]) -> Mapping[str, Any]:
    if decided := [name for name in scenario if name in fixed_by("find_capacity")]:
        raise UsageError(f"find_capacity decides {decided[0]} itself; leave {decided[0]}={scenario[decided[0]]!r} out")
    return scenario
