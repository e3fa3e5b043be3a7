"""Supervision of a run: foreign prompts, a dead worker, too many failures, a growing backlog."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

from pytest_comfyload.client.clock import Clock
from pytest_comfyload.client.comfy import ComfyClient
from pytest_comfyload.engine.loop_lag import LoopLag
from pytest_comfyload.engine.observers import alongside
from pytest_comfyload.engine.plan import WHOLE, EngineReport, Plan
from pytest_comfyload.engine.servers import Server
from pytest_comfyload.errors import ServerError, WorkerDead
from pytest_comfyload.metrics.units import counted
from pytest_comfyload.result.outcome import Outcome, OutcomeStatus, warm_up_failures

__all__ = ["Supervisor"]

# Real seconds between two checks of the backlog.
PERIOD = 1.0
# Real seconds between two checks of the servers' own counts, which cost nothing, and the largest delay of a count.
GLANCE = 0.1
COUNT_LAG = 0.5
# Number of outcomes required to judge a failure rate, and of samples to judge a backlog.
ENOUGH_OUTCOMES = 20
ENOUGH_LOOKS = 20


class Supervisor:
    """A supervisor that forwards outcomes, marks contended ones, and stops the run when continuing makes no sense.

    `elsewhere` means that other processes send the prompts, which know their own lag and the servers' clocks. A process
    that sends only a share of a load leaves the detection of foreign prompts to the one that knows all prompts.
    """

    def __init__(
        self,
        plan: Plan,
        servers: Sequence[Server],
        clock: Clock,
        lag: LoopLag,
        report: Callable[[Outcome], None],
        *,
        elsewhere: bool = False,
    ) -> None:
        self._plan = plan
        self._servers = servers
        self._clock = clock
        self._lag = lag
        self._pass_on = report
        self._elsewhere = elsewhere
        self._clocks = {server.address.url: server.server_clock for server in servers}
        for server in servers:
            self._clocks |= server.workers.clocks
        self._stop = asyncio.Event()
        self._aborted: str | None = None
        self._invalid: str | None = None
        # By server, the intervals in which foreign prompts were seen there.
        self._company: dict[str, list[tuple[float, float]]] = {}
        self._most_foreign = 0
        self._failed = 0
        self._measured = 0
        self._warm_ups: list[Outcome] = []
        self._begin = float("inf")
        self._backlog: deque[int] = deque(maxlen=ENOUGH_LOOKS)

    async def stopped(self) -> None:
        await self._stop.wait()

    def window_begins(self, at: float) -> None:
        self._begin = at

    def report(self, outcome: Outcome) -> None:
        outcome = self.marked(outcome)
        self._pass_on(outcome)
        if outcome.warmup:
            self._warm_ups.append(outcome)
        else:
            self._measured += 1
            self._failed += outcome.status not in (OutcomeStatus.SUCCESS, OutcomeStatus.CENSORED)
            self._judge_failures()

    def may_start(self) -> bool:
        """Return whether the load makes sense after its warm-up, in which at least one prompt must have been executed.

        Workers may accept prompts from their balancer only, so their rejections say nothing about the load.
        """
        refused = {OutcomeStatus.HTTP_ERROR} if self._plan.workers else set()
        telling = [outcome for outcome in self._warm_ups if outcome.status not in refused]
        if telling and not any(outcome.executed for outcome in telling):
            self._invalid = self._invalid or f"the load did not start: {warm_up_failures(telling)}"
        return self._invalid is None

    @contextlib.asynccontextmanager
    async def watching(self, inspector: Callable[[Server], ComfyClient]) -> AsyncIterator[None]:
        async with alongside(self._watch(inspector)):
            yield

    def conclude(self, result: EngineReport) -> None:
        result.aborted, result.invalid, result.foreign = self._aborted, self._invalid, self._most_foreign
        result.marked = self.marked
        result.clock_steps = {url: tuple(clock.steps) for url, clock in self._clocks.items() if clock.steps}

    def marked(self, outcome: Outcome) -> Outcome:
        """Return the outcome with what is known by now about the time in which the prompt was in progress."""
        line = outcome.timeline
        if line is None:
            return outcome
        if self._elsewhere and not outcome.warmup:
            return replace(outcome, contended=self._had_company(outcome))
        clock, seen = self._clocks[outcome.ran_on], line.delivered or line.ended or line.started or line.sent
        if line.started is not None and clock.stepped_within(line.sent, seen):
            line = line.voided()
        contended, stalled = self._had_company(outcome), self._lag.stood_still(outcome.intended, line.fetched or seen)
        lag = self._lag.added_to(outcome)
        known = outcome.contended, outcome.timeline, outcome.stalled, outcome.generator_lag
        if known == (contended, line, stalled, lag):
            return outcome
        return replace(outcome, contended=contended, timeline=line, stalled=stalled, generator_lag=lag)

    async def _watch(self, inspector: Callable[[Server], ComfyClient]) -> None:
        suspects: set[Server] = set()
        for glance in itertools.count(1):
            await asyncio.sleep(GLANCE)
            # A server's count can lag behind ours: the suspicion must persist, and only the ids in the queue prove it.
            before, suspects = suspects, set(filter(self._is_suspect, self._servers))
            for server in before & suspects:
                with contextlib.suppress(ServerError):
                    await self._look(server, inspector(server))
            if self._plan.abort_on_saturation and glance % round(PERIOD / GLANCE) == 0:
                self._judge_backlog()

    def _is_suspect(self, server: Server) -> bool:
        """Return whether the server's queue may reveal foreign prompts or a dead worker."""
        # Without sockets of its own, this process receives no queue lengths.
        return self._elsewhere or server.silent or (self._plan.share == WHOLE and server.foreign > 0)

    async def _look(self, server: Server, client: ComfyClient) -> None:
        try:
            queue = await server.look(client)
        except WorkerDead as error:
            self._invalid = str(error)
            self._stop_run(str(error))
            return
        # Two balancers may share the same workers.
        ours = set().union(*(each.ever_ours for each in self._servers))
        ours |= {prompt_id for prompt_id, run_id in queue.runs.items() if run_id == self._plan.run_id}
        foreign = sum(1 for prompt_id in (*queue.running, *queue.pending) if prompt_id not in ours)
        if foreign:
            self._note_company(server.address.url)
            self._most_foreign = max(self._most_foreign, foreign)

    def _note_company(self, url: str) -> None:
        now, lag, period = self._clock.now(), COUNT_LAG * self._clock.scale, PERIOD * self._clock.scale
        seen = self._company.setdefault(url, [])
        since = seen.pop()[0] if seen and now - seen[-1][1] <= 2 * period else now - lag
        seen.append((since, now))

    def _had_company(self, outcome: Outcome) -> bool:
        """Return whether foreign prompts are known to have been in the server's queue during the prompt."""
        if outcome.timeline is None:
            return False
        end = outcome.end or self._clock.now()
        seen = self._company.get(outcome.server, ())
        return any(since <= end and until >= outcome.timeline.sent for since, until in seen)

    def _judge_failures(self) -> None:
        limit = self._plan.abort_on_failure_rate
        if limit is not None and self._measured >= ENOUGH_OUTCOMES and 100 * self._failed / self._measured > limit:
            self._stop_run(f"{self._failed} of {counted(self._measured, 'prompt')} failed, more than {limit:g} %")

    def _judge_backlog(self) -> None:
        """Stop the run if it is over-saturated.

        That is, our backlog has more than doubled within the last twenty samples, and was more than 1.5 times as high
        in their second half as in the first.
        """
        if self._clock.now() < self._begin:
            return
        self._backlog.append(sum(len(server.outstanding) for server in self._servers))
        looks = list(self._backlog)
        if len(looks) < ENOUGH_LOOKS:
            return
        halves = sum(looks[: ENOUGH_LOOKS // 2]), sum(looks[ENOUGH_LOOKS // 2 :])
        if looks[-1] > 2 * looks[0] + 5 and halves[1] > 1.5 * halves[0]:
            self._stop_run(f"over-saturated: the backlog grew from {looks[0]} to {looks[-1]} prompts and keeps growing")

    def _stop_run(self, reason: str) -> None:
        self._aborted = self._aborted or reason
        self._stop.set()
