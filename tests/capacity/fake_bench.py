"""Servers in virtual time: loads are queues with drawn service times, and an hour of load takes milliseconds."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pytest_comfyload.metrics.queueing import serve, serve_users
from pytest_comfyload.protocol.timeline import Timeline
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import Outcome, OutcomeStatus
from pytest_comfyload.result.run_facts import RunFacts

__all__ = ["FakeBench", "load_result"]

SUBMIT, FETCH = 0.01, 0.05


@dataclass(slots=True)
class FakeBench:
    """A bench whose servers are simulated; all times are in seconds.

    `draw` draws the generation time of a prompt, and `stretch` returns the factor by which the run of a given number
    multiplies it (0 is the warm-up). `gap` is the server's pause between two prompts, and `oom` the share of prompts
    that run out of memory. In runs with the number `late_from` or higher, every prompt is sent 0.3 s late.
    """

    draw: Callable[[random.Random], float]
    rng: random.Random
    servers: int = 1
    gap: float = 0.0
    stretch: Callable[[int], float] = lambda run: 1.0
    oom: float = 0.0
    late_from: float = math.inf
    now: float = 0.0
    calls: list[str] = field(default_factory=list)

    def warm_up(self) -> LoadResult:
        return self._users_run("warm-up", self.servers, 0.0, iterations=3)

    def users(self, count: int, think_time: float, duration: float, drain: float) -> LoadResult:
        return self._users_run(f"users {count}", count, think_time, duration=duration, limit=duration + drain)

    def poisson(self, per_minute: float, duration: float, drain: float) -> LoadResult:
        gaps = (self.rng.expovariate(per_minute / 60) for _ in itertools.count())
        arrivals = list(itertools.takewhile(lambda at: at < duration, itertools.accumulate(gaps)))
        services = [self._service() for _ in arrivals]
        passages = serve(arrivals, [service + self.gap for service in services], self.servers, "least_queue")
        return self._result(f"poisson {per_minute:.3g}", arrivals, passages.starts, services, duration + drain)

    def scheduled(self, times: tuple[float, ...], duration: float, drain: float) -> LoadResult:
        services = [self._service() for _ in times]
        passages = serve(times, [service + self.gap for service in services], self.servers, "least_queue")
        return self._result(f"scheduled {len(times)}", times, passages.starts, services, duration + drain)

    def elapsed(self) -> float:
        return self.now

    def _users_run(
        self,
        name: str,
        count: int,
        think_time: float,
        iterations: float = math.inf,
        duration: float = math.inf,
        limit: float = math.inf,
    ) -> LoadResult:
        services: list[float] = []

        def send(user: int, iteration: int, at: float, server: int) -> tuple[float, float] | None:
            if iteration >= iterations or at >= duration:
                return None
            services.append(self._service())
            return services[-1] + self.gap, SUBMIT + FETCH + think_time

        passages = serve_users(count, send, self.servers, "sticky")
        return self._result(name, passages.arrivals, passages.starts, services, limit)

    def _service(self) -> float:
        return self.draw(self.rng) * self.stretch(len(self.calls))

    def _result(
        self, name: str, arrivals: Sequence[float], starts: Sequence[float], services: Sequence[float], limit: float
    ) -> LoadResult:
        lag = 0.3 if len(self.calls) >= self.late_from else 0.0
        outcomes = []
        for at, start, service in zip(arrivals, starts, services, strict=True):
            status = OutcomeStatus.OOM if self.rng.random() < self.oom else OutcomeStatus.SUCCESS
            outcomes.append(_outcome(at, start, service, lag, status, limit))
        self.calls.append(name)
        self.now += min(limit, max(start + service for start, service in zip(starts, services, strict=True)))
        return load_result(outcomes)


def _outcome(at: float, start: float, service: float, lag: float, status: OutcomeStatus, limit: float) -> Outcome:
    sent, accepted, ended = at + lag, at + lag + SUBMIT, start + SUBMIT + lag + service
    if ended > limit:
        status = OutcomeStatus.CENSORED
    good = status is OutcomeStatus.SUCCESS
    line = Timeline(
        send_lag=lag,
        sent=sent,
        accepted=accepted,
        started=start + SUBMIT + lag,
        ended=None if status is OutcomeStatus.CENSORED else ended,
        delivered=ended if good else None,
        fetched=ended + FETCH if good else None,
    )
    error = None if good else "Allocation on device"
    return Outcome("id", "http://fake", "client", 0, 0, "txt2img", status, at, error=error, timeline=line)


def load_result(outcomes: Sequence[Outcome]) -> LoadResult:
    facts = RunFacts(
        run_id="run",
        title="fake",
        scenario="fake",
        workflow="txt2img",
        servers=("http://fake",),
        seed=1,
        epoch=0.0,
        window=(0.0, max(outcome.intended for outcome in outcomes) + 1),
        time_scale=None,
        intended=len(outcomes),
        submitted=len(outcomes),
        loop_lag=0.0,
        max_send_lag=0.1,
    )
    return LoadResult(facts, outcomes)
