"""Every ComfyUI server gets each workflow of each group that uses it, so that no measured prompt loads a model.

Workers behind a balancer get them directly: which of them a balancer would choose, nobody can tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.clock import Clock
from pytest_comfyload.engine.crew import Crew
from pytest_comfyload.engine.plan import Group, Plan
from pytest_comfyload.engine.servers import Server

__all__ = ["warm_up"]


async def warm_up(plan: Plan, crew: Crew, servers: Sequence[Server], clock: Clock) -> None:
    """What fails is an outcome, as that of any prompt."""
    if plan.warmup:
        # All workers stand behind all of the servers, so that it does not matter whose books have their prompts.
        targets = [(address, servers[0], plan.groups) for address in plan.workers] or [
            (server.address, server, _groups_of(plan, place)) for place, server in enumerate(servers)
        ]
        await asyncio.gather(*(_warm(plan, crew, clock, *target) for target in targets))


def _groups_of(plan: Plan, place: int) -> tuple[Group, ...]:
    return tuple(group for group in plan.groups if place in plan.places(group))


async def _warm(
    plan: Plan, crew: Crew, clock: Clock, address: ServerAddress, server: Server, groups: Sequence[Group]
) -> None:
    for group in groups:
        user = await crew.warmer(group, address, server)
        for number in range(1, plan.warmup + 1):
            for prompt in group.prompts.warm_up(number):
                await user.run(prompt, -number, clock.now())
        # The estimate of the run's length is made of these, and the window begins with no socket too many.
        await user.settle()
        await asyncio.gather(*(client.aclose() for client in user.clients))
