"""Scheduling of each group's users by their executor, with absolute deadlines. Every prompt that is due is counted."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from pytest_comfyload.client.clock import Clock
from pytest_comfyload.engine.plan import WHOLE, Group, Share
from pytest_comfyload.engine.user import User
from pytest_comfyload.engine.user_pool import UserPool
from pytest_comfyload.scenario.executors import ClosedExecutor, OpenExecutor

__all__ = ["Scheduler"]


@dataclass(slots=True)
class Scheduler:
    """The scheduler of one run's window, which starts at `begin` (run's clock). Counts intended and dropped prompts."""

    crew: UserPool
    clock: Clock
    seed: int
    begin: float
    share: Share = WHOLE
    intended: int = 0
    dropped: int = 0

    async def through(self, group: Group) -> None:
        executor = group.executor
        async with asyncio.TaskGroup() as tasks:
            if isinstance(executor, OpenExecutor):
                await self._arrive(group, executor, tasks)
            else:
                closed = _Closed(group, executor)
                places = filter(self.share.has, range(executor.users))
                for number, user in zip(places, self.crew.of(group), strict=True):
                    tasks.create_task(self._iterate(closed, user, number))

    async def _iterate(self, closed: _Closed, user: User, number: int) -> None:
        """Run one user of a closed load, who sends the next prompt after the last one's outputs and a think time."""
        group, begin = closed.group, self.begin + closed.group.start
        iteration, free_at = 0, 0.0
        while (due := closed.executor.next_start(number, iteration, closed.taken, free_at)) is not None:
            closed.taken += 1
            prompt = group.prompts(number, iteration)
            await self.clock.sleep_until(begin + due)
            self.intended += 1
            end = await user.run(prompt, iteration, begin + due, stage=closed.executor.stage_at(due))
            iteration += 1
            free_at = end - begin + group.think_time.draw(self._rng("think", group, number, iteration))

    async def _arrive(self, group: Group, executor: OpenExecutor, tasks: asyncio.TaskGroup) -> None:
        """Run an open load: each arrival gets a free user immediately, or is dropped if the limit is reached."""
        begin = self.begin + group.start
        for number, due in enumerate(executor.arrivals(self._rng("arrivals", group))):
            if not self.share.has(number):
                continue
            prompt = group.prompts(number, 0)
            await self.clock.sleep_until(begin + due)
            self.intended += 1
            user = await self._free_user(group)
            if user is None:
                self.dropped += 1
            else:
                run = user.run(prompt, number, begin + due, stage=executor.stage_at(due))
                tasks.create_task(self.crew.lend(user, run))
                # A task that is cancelled before its first step never runs, so its prompt would have no outcome.
                await asyncio.sleep(0)

    async def _free_user(self, group: Group) -> User | None:
        """Return a free user, or None. An arrival still without a user when the run is cancelled counts as dropped."""
        try:
            return await self.crew.free_user(group)
        except asyncio.CancelledError:
            self.dropped += 1
            raise

    def _rng(self, *place: object) -> random.Random:
        names = [each.name if isinstance(each, Group) else each for each in place]
        return random.Random("/".join(map(str, (self.seed, *names))))


@dataclass(slots=True)
class _Closed:
    """A closed group, with the number of iterations that all its users have started so far."""

    group: Group
    executor: ClosedExecutor
    taken: int = 0
