"""A minimal client for tests of the server: it submits, listens, and waits for the end of a prompt."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from pytest_comfyload.simulator.settings import SimulatorSettings
from tests.simulator.serving import serving

__all__ = ["Talk", "stamps", "talking", "until"]

_PATIENCE = 30.0


class Talk:
    """One HTTP session with a server, and one socket per client id."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url

    async def get(self, path: str) -> Any:
        async with self.session.get(self.url + path) as response:
            return await response.json()

    async def post(self, path: str, body: Any) -> Any:
        """Return the JSON of the response, or its status if it is not JSON."""
        async with self.session.post(self.url + path, json=body) as response:
            return await response.json() if response.content_type == "application/json" else response.status

    async def submit(self, prompt: Any, client_id: str | None = "me", **more: Any) -> str:
        """Submit a prompt and return its id."""
        client = {} if client_id is None else {"client_id": client_id}
        answer = await self.post("/prompt", {"prompt": prompt, **client, **more})
        assert "prompt_id" in answer, answer
        return str(answer["prompt_id"])

    async def ended(self, prompt_id: str) -> dict[str, Any]:
        """Return the history entry of a prompt as soon as it exists; it is queried after every queue event."""
        async with self.session.ws_connect(f"{self.url}/ws") as watcher:
            while not (entry := await self.get(f"/history/{prompt_id}")):
                await watcher.receive(timeout=_PATIENCE)
        return dict(entry[prompt_id])

    @asynccontextmanager
    async def listening(self, client_id: str = "me") -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        async with self.session.ws_connect(f"{self.url}/ws?clientId={client_id}") as socket:
            await socket.receive_json(timeout=_PATIENCE)  # the greeting
            yield socket


@asynccontextmanager
async def talking(settings: SimulatorSettings) -> AsyncIterator[Talk]:
    """Open a session with a server of its own."""
    async with serving(settings) as url, aiohttp.ClientSession() as session:
        yield Talk(session, url)


async def until(socket: aiohttp.ClientWebSocketResponse, event: str) -> list[dict[str, Any]]:
    """Return all events up to and including the first one of this type."""
    events: list[dict[str, Any]] = []
    while not events or events[-1]["type"] != event:
        events.append(await socket.receive_json(timeout=_PATIENCE))
    return events


def stamps(entry: dict[str, Any]) -> dict[str, int]:
    """Return the server's stamps from a history entry in milliseconds, by event."""
    return {event: data["timestamp"] for event, data in entry["status"]["messages"]}
