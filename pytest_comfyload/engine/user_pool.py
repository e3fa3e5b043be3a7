"""The users of a run, and the warm-up that loads models before they start.

Since a socket takes time to open and an arrival must not wait for that, there is always a spare user.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from itertools import count
from typing import Any

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.clock import Clock
from pytest_comfyload.client.comfy import MAX_OUTPUT, ComfyClient
from pytest_comfyload.client.outputs import DecodingSample
from pytest_comfyload.client.response_body import Memory
from pytest_comfyload.engine.observers import CutShort
from pytest_comfyload.engine.plan import Group, Plan
from pytest_comfyload.engine.servers import Balancer, Server
from pytest_comfyload.engine.user import User
from pytest_comfyload.errors import ServerError
from pytest_comfyload.protocol.prompt_state import PromptState, Stage
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.scenario.executors import OpenExecutor

__all__ = ["UserPool", "warm_up"]

# Minimum time limit of an exchange with a server, in real seconds, even if the scenario's timeout is shorter.
LEAST_PATIENCE = 2.0
# Memory budget of all users together for downloading and decoding, in outputs of the largest size.
LARGEST_OUTPUTS = 8


class UserPool:
    """The pool that creates, opens, lends and closes users. Users of different groups have different indices."""

    def __init__(self, plan: Plan, servers: list[Server], clock: Clock, report: Callable[[Outcome], None]) -> None:
        self._plan = plan
        self._servers = servers
        self._clock = clock
        self._report = report
        self._memory = Memory(LARGEST_OUTPUTS * max(MAX_OUTPUT, *(each.max_response or 0 for each in plan.servers)))
        self._sample = DecodingSample(plan.seed)
        self._cut_short = CutShort()
        # Groups that use the same servers share a balancer.
        self._balancers = {
            places: Balancer(plan.balance, [servers[place] for place in places])
            for places in map(plan.places, plan.groups)
        }
        self._index = count(plan.share.number, plan.share.count)
        self._users: dict[int, list[User]] = {number: [] for number in range(len(plan.groups))}
        self._free: dict[int, list[User]] = {number: [] for number in self._users}
        self._warmers: list[User] = []
        # By group and server, the clients that the users of a group share.
        self._shared: dict[tuple[int, str], ComfyClient] = {}
        self._opening: dict[int, asyncio.Task[None]] = {}
        self._inspectors = {server.address.url: ComfyClient(server.address, clock) for server in servers}

    async def open(self) -> None:
        """Open the users that must be ready at the start. Raises: ServerError."""
        for number, group in enumerate(self._plan.groups):
            ours = filter(self._plan.share.has, range(group.executor.users))
            self._users[number] = [self._make(group) for _ in ours]
            self._free[number] = list(self._users[number])
        users = [user for users in self._users.values() for user in users]
        opened = await asyncio.gather(*(_open(user) for user in users), return_exceptions=True)
        for error in opened:
            if error is not None:
                raise error

    async def aclose(self) -> None:
        for task in self._opening.values():
            task.cancel()
        await asyncio.gather(*self._opening.values(), return_exceptions=True)
        await asyncio.gather(*(client.aclose() for client in (*self._clients, *self._inspectors.values())))

    def cut_short(self) -> None:
        """Make the bookkeeping of finished prompts end soon, because the run is being cancelled."""
        self._cut_short.set()

    async def settle(self) -> None:
        await asyncio.gather(*(user.settle() for user in self._everyone))

    def inspector(self, server: Server) -> ComfyClient:
        """Return a client without a socket, for inspecting a server and cleaning it up."""
        return self._inspectors[server.address.url]

    async def warmer(self, group: Group, address: ServerAddress, server: Server) -> User:
        """Return a new user to warm up `address`, the server or a worker behind it.

        The user's prompts are counted for the server.
        """
        client = self._client(group, address, server)
        user = self._user(group, [client], [server], Balancer("sticky", [server]))
        self._warmers.append(user)
        await _open_or_distrust(user)
        return user

    def of(self, group: Group) -> list[User]:
        return self._users[self._number(group)]

    def running(self) -> list[PromptState]:
        """Return the prompts that the servers are executing now."""
        return [state for client in self._clients for state in client.on_their_way if state.stage is Stage.RUNNING]

    async def free_user(self, group: Group) -> User | None:
        """Return an idle user, and prepare another one; None beyond the group's limit."""
        number, executor = self._number(group), group.executor
        free, limit = self._free[number], executor.max_in_flight if isinstance(executor, OpenExecutor) else None
        if limit is not None and len(self._users[number]) - len(free) >= limit:
            return None
        if not free:
            await self._spare(number)
        user = free.pop() if free else None
        if not free and (limit is None or len(self._users[number]) < limit):
            self._opening[number] = self._spare(number)
        return user

    async def lend(self, user: User, work: Coroutine[Any, Any, float]) -> None:
        """Run `work` of a user, and return the user to the pool afterwards."""
        try:
            await work
        finally:
            self._free[self._number(user.group)].append(user)

    def _spare(self, number: int) -> asyncio.Task[None]:
        """Return the task that opens another user: the one in progress, or a new one."""
        under_way = self._opening.get(number)
        if under_way is None or under_way.done():
            self._opening[number] = under_way = asyncio.create_task(self._add(number))
        return under_way

    async def _add(self, number: int) -> None:
        user = self._make(self._plan.groups[number])
        self._users[number].append(user)
        await _open_or_distrust(user)
        self._free[number].append(user)

    def _make(self, group: Group) -> User:
        places = self._plan.places(group)
        servers = [self._servers[place] for place in places]
        clients = [self._client_of(group, server) for server in servers]
        return self._user(group, clients, servers, self._balancers[places])

    def _client_of(self, group: Group, server: Server) -> ComfyClient:
        """Return a new client, or the one that the users of the group share."""
        if not self._plan.shares_sockets(group):
            return self._client(group, server.address, server)
        place = self._number(group), server.address.url
        if place not in self._shared:
            self._shared[place] = self._client(group, server.address, server)
        return self._shared[place]

    def _client(self, group: Group, address: ServerAddress, server: Server) -> ComfyClient:
        # A scenario's `timeout` limits each exchange, not only the execution. With a fast virtual clock, it would be
        # too short for a real connection.
        patience = max(LEAST_PATIENCE, self._clock.wall(group.timeout))
        return ComfyClient(address, self._clock, server.server_clock, server.note_queue, patience)

    def _user(self, group: Group, clients: list[ComfyClient], servers: list[Server], balancer: Balancer) -> User:
        return User(
            next(self._index),
            group,
            clients,
            servers,
            balancer,
            self._plan.run_id,
            self._report,
            self._memory,
            self._sample,
            self._cut_short,
            self._plan.show,
        )

    @property
    def _everyone(self) -> list[User]:
        return [*self._warmers, *(user for users in self._users.values() for user in users)]

    @property
    def _clients(self) -> list[ComfyClient]:
        return list(dict.fromkeys(client for user in self._everyone for client in user.clients))

    def _number(self, group: Group) -> int:
        return next(number for number, each in enumerate(self._plan.groups) if each is group)


async def _open_or_distrust(user: User) -> None:
    try:
        await _open(user)
    except ServerError:
        # The first prompt of the user will open it again, and report the error if that fails.
        for client in user.clients:
            client.distrust_socket()


async def _open(user: User) -> None:
    await asyncio.gather(*(client.open() for client in user.clients))


async def warm_up(plan: Plan, crew: UserPool, servers: Sequence[Server], clock: Clock) -> None:
    """Run the warm-up prompts. A failure is an outcome, like that of any prompt."""
    if plan.warmup:
        # All workers are behind each of the servers, so it does not matter for which server their prompts are counted.
        targets = [(address, servers[0], plan.groups) for address in plan.workers] or [
            (server.address, server, _groups_of(plan, place)) for place, server in enumerate(servers)
        ]
        await asyncio.gather(*(_warm(plan, crew, clock, *target) for target in targets))


def _groups_of(plan: Plan, place: int) -> tuple[Group, ...]:
    return tuple(group for group in plan.groups if place in plan.places(group))


async def _warm(
    plan: Plan, crew: UserPool, clock: Clock, address: ServerAddress, server: Server, groups: Sequence[Group]
) -> None:
    for group in groups:
        user = await crew.warmer(group, address, server)
        for number in range(1, plan.warmup + 1):
            for prompt in group.prompts.warm_up(number):
                await user.run(prompt, -number, clock.now())
        # The estimate of the run's duration needs these outcomes, and the window must start without surplus sockets.
        await user.settle()
        await asyncio.gather(*(client.aclose() for client in user.clients))
