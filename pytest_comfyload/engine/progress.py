"""The progress of a run: counters of bounded memory, published several times a second."""

from __future__ import annotations

import asyncio
import math
import random
import statistics
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from pytest_comfyload.client.clock import Clock
from pytest_comfyload.engine.observers import alongside
from pytest_comfyload.engine.plan import Plan
from pytest_comfyload.engine.scheduler import Scheduler
from pytest_comfyload.engine.servers import Server
from pytest_comfyload.engine.user_pool import UserPool
from pytest_comfyload.metrics.distribution import Distribution
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.scenario.scenario import expected_duration, planned_duration, planned_prompts

__all__ = ["LoadProgress", "ProgressReporter", "Tally"]

# Number of samples for the running percentile; if there are more, these are chosen at random.
KEPT = 1000


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """A snapshot of a run's progress. Counts are of measured prompts.

    Times are seconds of the run's clock, `scale` of which pass in one real second. `elapsed` is measured from the start
    of the window, or of the run while `warming_up`. `expected` is the expected length of the window, and `total` the
    expected number of prompts; None if unknown. `p95` is that of total_time, where failures count as infinite.
    `steps_per_second` is the mean over the prompts that are running now.
    """

    scale: float
    warming_up: bool
    elapsed: float
    expected: float | None
    total: int | None
    done: int
    in_flight: int
    dropped: int
    queue_remaining: int
    p95: float | None
    steps_per_second: float | None
    errors: Mapping[str, int] = field(default_factory=dict)

    @property
    def draining(self) -> bool:
        """Whether no more prompts are sent, and the run is waiting for those in flight."""
        return not self.warming_up and self.total is None and self.elapsed >= (self.expected or math.inf)

    @property
    def remaining(self) -> float | None:
        """Seconds until the end of the window, extrapolated from the prompts so far or else as expected."""
        if self.warming_up:
            return None
        if self.total is not None and self.done:
            return self.elapsed * (self.total - self.done) / self.done
        return None if self.expected is None else max(0.0, self.expected - self.elapsed)


class Tally:
    """Running counts of outcomes."""

    def __init__(self) -> None:
        self.done = 0
        self.errors: Counter[str] = Counter()
        self._total_times: list[float] = []
        self._rng = random.Random(0)
        # That of the fastest warm-up prompt by group and workflow, without the time to load models.
        self._generation_times: dict[tuple[str | None, str], float] = {}

    def add(self, outcome: Outcome) -> None:
        if outcome.warmup:
            self._add_warm_up(outcome)
            return
        self.done += 1
        if not outcome.succeeded:
            self.errors[str(outcome.status)] += 1
        self._sample(outcome.total_time if outcome.succeeded and outcome.total_time is not None else math.inf)

    @property
    def p95(self) -> float | None:
        times = self._total_times
        return float(Distribution("total_time", times).p95) if times else None

    def generation_time(self, group: str | None) -> float | None:
        """Return the expected seconds of the group's prompts once warm, as the mean over its workflows' warm-ups."""
        times = [seconds for (name, _), seconds in self._generation_times.items() if name == group]
        return statistics.fmean(times) if times else None

    def _add_warm_up(self, outcome: Outcome) -> None:
        if outcome.generation_time is not None:
            key = (outcome.group, outcome.workflow)
            seconds = max(0.0, outcome.generation_time - outcome.model_load_time)
            self._generation_times[key] = min(seconds, self._generation_times.get(key, math.inf))

    def _sample(self, value: float) -> None:
        """Add a value, so that each one so far is kept with the same probability (reservoir sampling)."""
        if len(self._total_times) < KEPT:
            self._total_times.append(value)
        elif (place := self._rng.randrange(self.done)) < KEPT:
            self._total_times[place] = value


# Real seconds between two snapshots.
PERIOD = 0.25


class ProgressReporter:
    """A reporter that calls `tell` with a `LoadProgress` regularly and when the window starts, in the event loop."""

    def __init__(
        self,
        plan: Plan,
        servers: Sequence[Server],
        crew: UserPool,
        clock: Clock,
        tally: Tally,
        tell: Callable[[LoadProgress], None],
    ) -> None:
        self._plan = plan
        self._servers = servers
        self._crew = crew
        self._clock = clock
        self._tell = tell
        self._tally = tally
        self._walk: Scheduler | None = None
        self._begin = clock.now()
        self._expected = planned_duration(plan.groups)
        self._total = _total(plan)

    def window_begins(self, walk: Scheduler) -> None:
        self._walk, self._begin = walk, walk.begin
        self._expected = self._expect()
        self._tell(self.look())

    @asynccontextmanager
    async def telling(self) -> AsyncIterator[None]:
        async with alongside(self._go_on()):
            yield
        # The final snapshot is complete.
        self._tell(self.look())

    def look(self) -> LoadProgress:
        paces = [pace for state in self._crew.running() if (pace := state.steps_per_second) is not None]
        return LoadProgress(
            scale=self._clock.scale,
            warming_up=self._walk is None,
            elapsed=self._clock.now() - self._begin,
            expected=self._expected,
            total=self._total,
            done=self._tally.done,
            in_flight=sum(len(server.outstanding) for server in self._servers),
            dropped=self._walk.dropped if self._walk is not None else 0,
            queue_remaining=sum(server.queue_remaining for server in self._servers),
            p95=self._tally.p95,
            steps_per_second=statistics.fmean(paces) if paces else None,
            errors=dict(self._tally.errors),
        )

    def _expect(self) -> float | None:
        """Return the expected length of the window; None if unknown.

        It is the estimate for all groups together, but at least that of each group alone on its own servers.
        """
        plan = self._plan
        times = [self._tally.generation_time(group.name) for group in plan.groups]
        together = expected_duration(plan.groups, times, len(plan.workers or plan.servers))
        alone = [
            expected_duration([group], [seconds], len(plan.workers or plan.places(group)))
            for group, seconds in zip(plan.groups, times, strict=True)
        ]
        return None if together is None else max([together, *filter(None, alone)])

    async def _go_on(self) -> None:
        while True:
            self._tell(self.look())
            await asyncio.sleep(PERIOD)


def _total(plan: Plan) -> int | None:
    """Return the number of prompts of a run that ends when these are done; None for one that ends at a given time."""
    if any(group.executor.duration is not None for group in plan.groups):
        return None
    prompts = planned_prompts(plan.groups)
    return None if prompts is None else round(prompts)
