"""Tells whoever asked how the run stands, a few times a second; it costs the run nothing that could be measured."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from pytest_comfyload.client.clock import Clock
from pytest_comfyload.engine.crew import Crew
from pytest_comfyload.engine.plan import Plan
from pytest_comfyload.engine.progress import Progress, Tally
from pytest_comfyload.engine.servers import Server
from pytest_comfyload.engine.tasks import alongside
from pytest_comfyload.engine.walk import Walk
from pytest_comfyload.scenario.scenario import expected_duration, planned_duration, planned_prompts

__all__ = ["Teller"]

# Real seconds between two snapshots.
PERIOD = 0.25


class Teller:
    """`tell` gets a `Progress` every now and then, and one when the window begins, in the event loop."""

    def __init__(
        self,
        plan: Plan,
        servers: Sequence[Server],
        crew: Crew,
        clock: Clock,
        tally: Tally,
        tell: Callable[[Progress], None],
    ) -> None:
        self._plan = plan
        self._servers = servers
        self._crew = crew
        self._clock = clock
        self._tell = tell
        self._tally = tally
        self._walk: Walk | None = None
        self._begin = clock.now()
        self._expected = planned_duration(plan.groups)
        self._total = _total(plan)

    def window_begins(self, walk: Walk) -> None:
        self._walk, self._begin = walk, walk.begin
        self._expected = self._expect()
        self._tell(self.look())

    @asynccontextmanager
    async def telling(self) -> AsyncIterator[None]:
        async with alongside(self._go_on()):
            yield
        # The last word is the whole truth.
        self._tell(self.look())

    def look(self) -> Progress:
        paces = [pace for state in self._crew.running() if (pace := state.steps_per_second) is not None]
        return Progress(
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
        """For all groups together, and none is over sooner than it would be alone on its own servers."""
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
    """The number of prompts of a run that ends when they are done; others end by the clock."""
    if any(group.executor.duration is not None for group in plan.groups):
        return None
    prompts = planned_prompts(plan.groups)
    return None if prompts is None else round(prompts)
