"""Whenever a scheduler is cancelled, every arrival that was due has started or is counted as dropped."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from pytest_comfyload.client.clock import Clock
from pytest_comfyload.engine.plan import Group
from pytest_comfyload.engine.scheduler import Scheduler
from pytest_comfyload.engine.user import User
from pytest_comfyload.engine.user_pool import UserPool
from pytest_comfyload.scenario.executors import ArrivalRate
from pytest_comfyload.scenario.pacing import RateStage


class Begun:
    """A user pool whose users' prompts never finish, and which takes one step of the loop to hand out a user."""

    def __init__(self) -> None:
        self.prompts = 0

    async def free_user(self, group: Group) -> User:
        await asyncio.sleep(0)
        return cast("User", self)

    async def run(self, *arguments: Any, **more: Any) -> float:
        self.prompts += 1
        await asyncio.sleep(3600)
        return 0.0

    async def lend(self, user: User, work: Any) -> None:
        await work


class Prompts:
    def __call__(self, user: int, iteration: int) -> Any:
        return None

    def warm_up(self, number: int) -> Any:
        return ()


@pytest.mark.parametrize("steps", range(40))
def test_every_arrival_begins_or_is_dropped(steps: int) -> None:
    async def main() -> None:
        crew, clock = Begun(), Clock(1000.0)
        # All arrivals are due at once: after each step of the event loop, the scheduler is at a different point.
        walk = Scheduler(cast("UserPool", crew), clock, 0, clock.now() - 3600)
        group = Group(None, ArrivalRate((RateStage(60.0, 1.0, 1.0),)), Prompts(), 60.0)
        walking = asyncio.create_task(walk.through(group))
        for _ in range(steps):
            await asyncio.sleep(0)
        walking.cancel()
        await asyncio.gather(walking, return_exceptions=True)
        assert walk.intended == walk.dropped + crew.prompts

    asyncio.run(main())
