"""A gateway in the test's own event loop, with simulators there or servers elsewhere as workers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.gateway.gateway_server import gateway_serving
from pytest_comfyload.gateway.gateway_settings import GatewaySettings
from pytest_comfyload.simulator.settings import SimulatorSettings
from tests.simulator.serving import serving
from tests.simulator.talking import Talk

__all__ = ["FAST", "User", "gateway_before", "gateway_over"]

FAST = SimulatorSettings(time_scale=50.0, probe_nodes=True)


class User(Talk):
    """A user of a gateway, identified by its own key."""

    async def status(self, method: str, path: str, **options: Any) -> int:
        async with self.session.request(method, self.url + path, **options) as response:
            return response.status

    async def text(self, path: str) -> str:
        async with self.session.get(self.url + path) as response:
            return await response.text()

    async def picture(self, image: dict[str, str]) -> bytes:
        async with self.session.get(self.url + "/view", params=image) as response:
            response.raise_for_status()
            return await response.read()


@asynccontextmanager
async def gateway_before(redis_url: str, workers: Sequence[str | ServerAddress], **settings: Any) -> AsyncIterator[str]:
    """Run a gateway in front of these servers, and yield its URL."""
    addresses = tuple(each if isinstance(each, ServerAddress) else ServerAddress.parse(each) for each in workers)
    async with gateway_serving(GatewaySettings(redis=redis_url, workers=addresses, port=0, **settings)) as url:
        yield url


@asynccontextmanager
async def gateway_over(
    redis_url: str,
    workers: int = 1,
    users: Sequence[str] = ("ann",),
    simulated: SimulatorSettings = FAST,
    **settings: Any,
) -> AsyncIterator[list[User]]:
    """Run a gateway over this many simulators, and yield its users."""
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(serving(simulated)) for _ in range(workers)]
        url = await stack.enter_async_context(gateway_before(redis_url, urls, **settings))
        sessions = [
            await stack.enter_async_context(aiohttp.ClientSession(headers={"X-API-Key": user})) for user in users
        ]
        yield [User(session, url) for session in sessions]
