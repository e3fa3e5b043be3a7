"""Capacity search in at most four runs: measure service times, solve, confirm at 80 %; repeated once if refuted.

A warm-up precedes the four runs; its times predict how long they will take.
"""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import dataclass, field
from typing import Protocol

from pytest_comfyload.capacity.answer import Capacity, Limit, Unconfirmed
from pytest_comfyload.capacity.solve import Confirmation, System, confirmation
from pytest_comfyload.errors import ServerError, UsageError
from pytest_comfyload.metrics.intervals import Interval
from pytest_comfyload.metrics.load_plan import Service
from pytest_comfyload.metrics.metric import Metric
from pytest_comfyload.metrics.slo import Slo
from pytest_comfyload.metrics.units import format_duration
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import OutcomeStatus
from pytest_comfyload.result.service_times import services_of

__all__ = ["LoadRunner", "Wanted", "search"]

MEASURED_PROMPTS = 100
CONFIRMING_PROMPTS = 60
USERS_PER_SERVER = 2
CONFIRMED_SHARE = 0.8
# Prompts per server that may be unfinished at the end of an open load: more than at the loads that are confirmed.
ARRIVALS_WAITING = 5
# Attempts at measurement and confirmation; the second one is based on twice the sample.
ATTEMPTS = 2
# Share of the budget reserved for overhead, such as connecting and cleaning up.
RESERVE = 0.02


class LoadRunner(Protocol):
    """Runner of loads. A load starts no prompt after `duration` seconds, and is over at most `drain` seconds later."""

    def warm_up(self) -> LoadResult:
        """Send a few prompts to each server, one at a time."""
        ...

    def users(self, count: int, think_time: float, duration: float, drain: float) -> LoadResult: ...

    def poisson(self, per_minute: float, duration: float, drain: float) -> LoadResult: ...

    def scheduled(self, times: tuple[float, ...], duration: float, drain: float) -> LoadResult:
        """Send prompts at these times."""
        ...

    def elapsed(self) -> float:
        """Return the seconds since the search began, in the servers' time."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """The goal of a search: the largest load at which `slo` is met; `budget` is in seconds."""

    slo: Slo
    system: System
    budget: float


def search(wanted: Wanted, bench: LoadRunner, rng: random.Random) -> Capacity:
    """Search for a capacity.

    Raises: UsageError before the first run if that cannot fit the budget; ServerError if no prompt succeeds.
    """
    if wanted.system.arrival == "users" and not wanted.slo.grows_with_load:
        raise UsageError(
            f"slo={str(wanted.slo)!r} does not depend on the number of users; add total_time or queue_time"
        )
    return _Search(wanted, bench, rng).run()


@dataclass(slots=True)
class _Search:
    """State of a search. `pace` is the best estimate of the seconds for which a prompt occupies a server."""

    wanted: Wanted
    bench: LoadRunner
    rng: random.Random
    pace: float = math.nan
    measurements: list[LoadResult] = field(default_factory=list)
    confirmations: list[Confirmation] = field(default_factory=list)
    runs: list[LoadResult] = field(default_factory=list)

    def run(self) -> Capacity:
        self._warm_up()
        for _ in range(ATTEMPTS):
            end = self._measure() or self._confirm()
            if end is not None:
                return end
        return self._end(f"the queue model was contradicted twice: {self._refutation()}")

    # --- the loads; each may end the search ---

    def _warm_up(self) -> None:
        result = self.bench.warm_up()
        times = [outcome.generation_time for outcome in result.measured if outcome.succeeded]
        known = [time for time in times if time is not None]
        if not known:
            errors = [outcome.error for outcome in result.all_outcomes if outcome.error]
            raise ServerError(f"no prompt of the warm-up succeeded: {errors[0] if errors else 'no times are known'}")
        self.pace = statistics.fmean(known)
        if not self._fits(self._measuring_time(), self._measuring_users()):
            raise UsageError(self._too_short())

    def _measure(self) -> Capacity | None:
        users, duration = self._measuring_users(), self._measuring_time()
        if not self._fits(duration, users):
            return self._end(f"no time was left for a second sample: {self._refutation()}", limit="budget")
        result = self.bench.users(users, 0.0, duration, self._left() - duration)
        self.runs.append(result)
        if result.invalid_because is not None:
            return self._end(result.invalid_because, limit="generator")
        self.measurements.append(result)
        return None if self._services() else self._end("no prompt ended within the budget", limit="budget")

    def _confirm(self) -> Capacity | None:
        slo, system, services = self.wanted.slo, self.wanted.system, self._services()
        value = system.largest(slo, services, self.rng)
        if value == 0:
            return self._end("it is missed even without a queue", resolved=True)
        load = CONFIRMED_SHARE * value if system.unit == "prompts/min" else max(1, int(CONFIRMED_SHARE * value))
        schedule = system.schedule(load, CONFIRMING_PROMPTS)
        duration = schedule[-1] if schedule else self._confirming_time(load, services)
        if not self._fits(duration, load if system.arrival == "users" else ARRIVALS_WAITING * system.servers):
            return self._end("the budget had no time left to confirm it", limit="budget")
        result = self._run_at(load, duration, schedule)
        self.runs.append(result)
        if result.invalid_because is not None:
            return self._end(f"the confirming run was invalid: {result.invalid_because}", limit="generator")
        if result.accounting.by_status.get(OutcomeStatus.CENSORED):
            return self._end("the budget ended before the confirming run", limit="budget")
        condition = system.binding(slo, services, self.rng, value)
        self.confirmations.append(confirmation(result, load, duration, condition, services, system, self.rng))
        if not self.confirmations[-1].agrees:
            return None
        self.measurements.append(result)
        return self._end(f"confirmed {self.confirmations[-1].sentence(system.unit)}", resolved=True)

    def _run_at(self, load: float, duration: float, schedule: tuple[float, ...]) -> LoadResult:
        drain = self._left() - duration
        if schedule:
            return self.bench.scheduled(schedule, duration, drain)
        if self.wanted.system.arrival == "poisson":
            return self.bench.poisson(load, duration, drain)
        return self.bench.users(int(load), self.wanted.system.think_time, duration, drain)

    # --- time ---

    def _left(self) -> float:
        return (1 - RESERVE) * self.wanted.budget - self.bench.elapsed()

    def _fits(self, duration: float, waiting: float) -> bool:
        """Return whether a load would finish in time, with about `waiting` prompts unfinished at its end."""
        return duration + self.pace * (1 + waiting / self.wanted.system.servers) <= self._left()

    def _measuring_users(self) -> int:
        return USERS_PER_SERVER * self.wanted.system.servers

    def _measuring_time(self) -> float:
        return MEASURED_PROMPTS * self.pace / self.wanted.system.servers

    def _confirming_time(self, load: float, services: tuple[Service, ...]) -> float:
        system = self.wanted.system
        self.pace = statistics.fmean(service.occupied for service in services)
        thinking = 60 * load / (system.think_time + self.pace)
        per_minute = load if system.arrival == "poisson" else min(thinking, system.saturation(services))
        return 60 * CONFIRMING_PROMPTS / per_minute

    def _too_short(self) -> str:
        budget, needed = format_duration(self.wanted.budget), format_duration(self._measuring_time())
        enough = format_duration(self.bench.elapsed() + 3 * self._measuring_time())
        return (
            f"budget: {budget} are too short to measure {MEASURED_PROMPTS} prompts of about "
            f"{format_duration(self.pace)}, which take {needed}; a whole search takes about {enough}"
        )

    # --- the result ---

    def _services(self) -> tuple[Service, ...]:
        loads = self.measurements
        return services_of([load.measured for load in loads], [load.all_outcomes for load in loads])

    def _refutation(self) -> str:
        return self.confirmations[-1].sentence(self.wanted.system.unit)

    def _end(self, remark: str, *, limit: Limit | None = None, resolved: bool = False) -> Capacity:
        services = self._services()
        if not services:
            return self._capacity((math.nan, math.nan, math.nan), 0, limit or "budget", False, remark)
        estimate = self.wanted.system.solve(self.wanted.slo, services, self.rng)
        values = (estimate.value, estimate.lower, estimate.upper)
        if self.confirmations and not resolved:
            values = self._bracket(estimate.upper)
        cause: Limit = "generation" if estimate.by_generation else "queue"
        if any(load.accounting.by_status.get(OutcomeStatus.OOM) for load in self.runs):
            cause = "memory"
        return self._capacity(values, len(services), limit or cause, resolved, remark)

    def _bracket(self, upper: float) -> tuple[float, float, float]:
        """Return the capacity and its bounds from the measured loads alone, since the model was refuted."""
        slo, last = self.wanted.slo, self.confirmations[-1]
        missed = [each.load for each in self.confirmations if not slo.met_by(each.result)]
        upper = min(missed) if missed else upper if last.slower else math.inf
        held = [each.load for each in self.confirmations if slo.met_by(each.result) and each.load < upper]
        return max(held, default=0.0), max(held, default=0.0), upper

    def _capacity(
        self, values: tuple[float, float, float], n: int, limit: Limit, resolved: bool, remark: str
    ) -> Capacity:
        value, *ends = values
        interval = Interval(*ends)

        def metric(value: float, name: str, interval: Interval | None = None) -> Metric:
            evidence = None if resolved else Unconfirmed(interval, limit, remark)
            made = Metric(value, name, self.wanted.system.unit, n, interval, evidence)
            made.absent_because = remark
            return made

        return Capacity(
            value=metric(value, "capacity", interval),
            lower=metric(interval.lower, "capacity.lower"),
            upper=metric(interval.upper, "capacity.upper"),
            limited_by=limit,
            resolved=resolved,
            slo=str(self.wanted.slo),
            remark=remark,
            runs=tuple(self.runs),
        )
