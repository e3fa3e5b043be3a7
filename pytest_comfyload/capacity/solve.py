"""The largest load at which the SLO is met in the queue model, and its confirmation by runs.

The estimate is from one long simulated run, with service times redrawn from the sample. Its interval, from runs with
bootstrap resamples, covers the uncertainty of the sample. Service times are measured, not modelled; servers are assumed
to be identical.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.intervals import Interval, percentile
from pytest_comfyload.metrics.load_plan import Arrivals, Plan, Service, Times, Users, play
from pytest_comfyload.metrics.metric import Metric
from pytest_comfyload.metrics.queueing import Dispatch
from pytest_comfyload.metrics.replay import replay
from pytest_comfyload.metrics.slo import Condition, Slo
from pytest_comfyload.metrics.units import parse_duration
from pytest_comfyload.result.load_result import LoadCapacity, LoadResult
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.result.service_times import services_of

__all__ = [
    "Arrival",
    "Confirmation",
    "SolvedLoad",
    "System",
    "binding",
    "capacity_of",
    "confirmation",
    "greatest",
    "largest",
    "solve",
    "solved_load",
]

Arrival = Literal["poisson", "users"]

LONG_RUN = 20_000
SHORT_RUN = 1_000
RESAMPLES = 100
# The least number of rounds of all users, and the share of a run that is left out at its start, with an empty queue.
ROUNDS = 4
RAMP = 0.25
# No larger number of users is tried.
MOST_USERS = 10_000


@dataclass(frozen=True, slots=True)
class System:
    """Arrivals and servers. Loads are prompts per minute under Poisson arrivals, else users."""

    arrival: Arrival
    servers: int
    think_time: float = 0.0

    @property
    def unit(self) -> str:
        return "prompts/min" if self.arrival == "poisson" else "users"

    @property
    def dispatch(self) -> Dispatch:
        """The dispatch of prompts: a user stays with a server; an arriving prompt goes to the one with the fewest."""
        return "least_queue" if self.arrival == "poisson" else "sticky"

    def saturation(self, services: Sequence[Service]) -> float:
        """Return the most prompts per minute that the servers can execute; inf if prompts do not occupy them."""
        occupied = statistics.fmean(service.occupied for service in services)
        return 60 * self.servers / occupied if occupied else math.inf

    def largest(self, slo: Slo, services: Sequence[Service], rng: random.Random) -> float:
        """Return the largest load at which the SLO is met; 0 if it is missed even without a queue."""
        return largest(slo, services, self, rng)

    def solve(self, slo: Slo, services: Sequence[Service], rng: random.Random) -> SolvedLoad:
        """Return the largest load with its interval."""
        return solve(slo, services, self, rng)

    def binding(self, slo: Slo, services: Sequence[Service], rng: random.Random, value: float) -> Condition:
        """Return the condition that a load slightly above `value` misses."""
        return binding(slo, services, self, rng, value)

    def schedule(self, load: float, prompts: int) -> tuple[float, ...]:
        """Return the times in seconds of `prompts` prompts at a load; empty if they are drawn only during the run."""
        return ()


@dataclass(frozen=True, slots=True)
class SolvedLoad:
    """A load and its 90 % interval; `by_generation`: it is limited by the service times alone, not by a queue."""

    value: float
    lower: float
    upper: float
    by_generation: bool


class _Path(NamedTuple):
    """Random numbers of one run: gaps between arrivals in units of their mean, and quantiles for drawing services.

    Loads and samples that are compared share a path, so that they do not differ by chance.
    """

    gaps: list[float]
    quantiles: list[float]

    @classmethod
    def drawn(cls, rng: random.Random, prompts: int) -> _Path:
        return cls([rng.expovariate(1) for _ in range(prompts)], [rng.random() for _ in range(prompts)])

    def services(self, ordered: Sequence[Service]) -> list[Service]:
        return [ordered[int(quantile * len(ordered))] for quantile in self.quantiles]


def solve(slo: Slo, services: Sequence[Service], system: System, rng: random.Random) -> SolvedLoad:
    """Return the largest load with its interval.

    `services` must not be empty. If loads are numbers of users, the SLO must depend on the load.
    """
    value, path = largest(slo, services, system, rng), _Path.drawn(rng, SHORT_RUN)
    # The value from a short run is off by chance, but the relative effect of redrawing the sample on it is not.
    scale = value / (_largest(slo, services, system, path) or 1.0)
    redrawn = (rng.choices(services, k=len(services)) for _ in range(RESAMPLES))
    values = [scale * _largest(slo, sample, system, path) for sample in redrawn]
    solved = solved_load(slo, services, value, values)
    if system.arrival == "users":
        return replace(solved, lower=math.floor(solved.lower), upper=math.ceil(solved.upper))
    return solved


def solved_load(slo: Slo, services: Sequence[Service], value: float, redrawn: Sequence[float]) -> SolvedLoad:
    """Return a load with its interval, which is computed from the loads of redrawn samples."""
    by_generation = slo.missed(_unloaded(services)) is not None or not slo.grows_with_load
    lower, upper = min(value, percentile(redrawn, 5)), max(value, percentile(redrawn, 95))
    return SolvedLoad(value, lower, upper, by_generation)


def capacity_of(load: LoadResult, among: Sequence[Outcome], slo: str, think_time: float | str) -> LoadCapacity:
    """Return the capacity of a load's servers, estimated from its service times alone: `LoadResult.capacity`.

    `among` are all outcomes of the run that the load is part of. Raises: UsageError.
    """
    wanted = Slo.parse(slo)
    if not wanted.grows_with_load:
        raise UsageError(f"slo={slo!r} does not depend on the load; add total_time or queue_time")
    services = services_of([load.measured], among=[among])
    servers = len(load.facts.workers or load.facts.servers)
    systems = (System("poisson", servers), System("users", servers, parse_duration(think_time, "think_time")))
    return LoadCapacity(*(_solved(wanted, services, system, load.seed) for system in systems))


def _solved(slo: Slo, services: Sequence[Service], system: System, seed: int) -> Metric:
    name = "capacity.prompts_per_minute" if system.arrival == "poisson" else "capacity.people"
    unit = system.unit if system.arrival == "poisson" else "people"
    if not services:
        metric = Metric(math.nan, name, unit, 0, None, None)
        metric.absent_because = "no prompt has a service time"
        return metric
    solved = solve(slo, services, system, random.Random(seed))
    return Metric(solved.value, name, unit, len(services), Interval(solved.lower, solved.upper), None)


def largest(slo: Slo, services: Sequence[Service], system: System, rng: random.Random) -> float:
    """Return the estimate alone; 0 if the SLO is missed without any queue."""
    return _largest(slo, services, system, _Path.drawn(rng, LONG_RUN))


def binding(slo: Slo, services: Sequence[Service], system: System, rng: random.Random, value: float) -> Condition:
    """Return the condition that a load slightly above `value` misses; if it misses none, one that grows with load."""
    by_growth = sorted(slo.conditions, key=lambda condition: condition.metric == "generation_time")
    if len(by_growth) == 1:
        return by_growth[0]
    beyond = 1.05 * value if system.arrival == "poisson" else max(value + 1, 1.05 * value)
    return slo.missed(_run(services, system, _Path.drawn(rng, LONG_RUN))(beyond)) or by_growth[0]


def _largest(slo: Slo, services: Sequence[Service], system: System, path: _Path) -> float:
    if slo.missed(_unloaded(services)) is not None:
        return 0.0
    run = _run(services, system, path)
    if system.arrival == "users":
        # Exact up to 500 users, above that to 0.2 %.
        return greatest(lambda count: slo.missed(run(count)) is None, 0, MOST_USERS, guess=1, precision=1 / 500)
    return _greatest_rate(lambda rate: slo.missed(run(rate)) is None, system.saturation(services))


def _run(services: Sequence[Service], system: System, path: _Path) -> Callable[[float], Times]:
    """Return a function that simulates a load and returns its times."""
    drawn = path.services(sorted(services))
    arrivals = list(itertools.accumulate(path.gaps))

    def run(load: float) -> Times:
        if system.arrival == "users":
            rounds = max(ROUNDS, math.ceil(len(drawn) / load))
            plan: Plan = Users(int(load), iterations=rounds, think_time=system.think_time)
        else:
            plan = Arrivals(tuple(60 * at / load for at in arrivals))
        return _settled(play(plan, lambda k, server: drawn[k % len(drawn)], system.servers, system.dispatch))

    return run


def _settled(times: Times) -> Times:
    ramp = int(RAMP * len(times.queue_time))
    return Times(times.queue_time[ramp:], times.generation_time[ramp:], times.total_time[ramp:])


def _unloaded(services: Sequence[Service]) -> Times:
    """Return the times of prompts that each find a free server."""
    return Times(
        queue_time=[0.0] * len(services),
        generation_time=[service.generation for service in services],
        total_time=[service.generation + service.outside for service in services],
    )


def _greatest_rate(holds: Callable[[float], bool], most: float) -> float:
    """Return the greatest rate for which `holds` is true, to `most` / 300; `most` is the saturation of the servers."""
    good, bad = 0.0, most
    if holds(most):
        return most
    while bad - good > most / 300:
        middle = (good + bad) / 2
        good, bad = (middle, bad) if holds(middle) else (good, middle)
    return (good + bad) / 2


def greatest(
    holds: Callable[[int], bool], good: int, most: int, *, guess: int, precision: float, step: float = 2.0
) -> int:
    """Return the greatest number up to `most` for which `holds` is true; `holds` is monotonic, and true for `good`.

    The result may be too small by a share of `precision`, unless it is `most`. The search goes up or down from the
    guess by factors of `step`, until it has both a number for which `holds` is true and one for which it is not.
    """
    least, bad, number = good, most + 1, guess
    while bad - good > (1 if bad > most else max(1, precision * good)):
        number = min(max(number, good + 1), bad - 1)
        if holds(number):
            good = number
        else:
            bad = number
        if bad > most:
            number = int(step * good)
        else:
            number = (good + bad) // 2 if good > least else max(int(bad / step), (good + bad) // 2)
    return good


# The replay of a steady server is narrower than the variation between runs from clock speeds and heat. A deviation of
# up to this share of its middle, on either side, therefore does not refute the model.
TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Confirmation:
    """Comparison of a run with the model; `load` is in the system's unit.

    `measured` is the condition's statistic in seconds; `replayed` is its 90 % interval in the model, widened if it is
    narrower than the tolerance.
    """

    load: float
    result: LoadResult
    condition: Condition
    measured: float
    replayed: Interval

    @property
    def agrees(self) -> bool:
        return self.replayed.covers(self.measured)

    @property
    def slower(self) -> bool:
        """Whether the run was slower than the model predicts."""
        return not self.measured <= self.replayed.upper

    def sentence(self, unit: str) -> str:
        lower, upper = self.replayed
        figures = f"{self.condition.name} {self.measured:.3g} s, replayed {lower:.3g}–{upper:.3g} s"
        return f"at {self.load:.3g} {unit} {figures}"


def confirmation(
    result: LoadResult,
    load: float,
    duration: float,
    condition: Condition,
    services: Sequence[Service],
    system: System,
    rng: random.Random,
) -> Confirmation:
    """Compare a run of `duration` seconds at `load` with the model; `services` were measured without that run."""
    replayed = replay(
        _plan_of(result, load, duration, system),
        services,
        condition.statistic,
        rng,
        servers=system.servers,
        dispatch=system.dispatch,
    )
    return Confirmation(load, result, condition, condition.measured(result), _tolerant(replayed))


def _tolerant(interval: Interval) -> Interval:
    middle = (interval.lower + interval.upper) / 2
    return Interval(min(interval.lower, (1 - TOLERANCE) * middle), max(interval.upper, (1 + TOLERANCE) * middle))


def _plan_of(result: LoadResult, load: float, duration: float, system: System) -> Plan:
    """Return the plan to replay: users as in the load, or exactly the arrivals that were scheduled in the run."""
    if system.arrival == "users":
        return Users(int(load), duration=duration, think_time=system.think_time)
    return Arrivals(tuple(sorted(outcome.intended for outcome in result.outcomes)))
