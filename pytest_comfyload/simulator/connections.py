"""Parts of a simulated server, as its routes access them, and its WebSocket connections."""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import dataclass
from typing import Any

from aiohttp import WSMsgType, web

from pytest_comfyload.simulator.events import Hub
from pytest_comfyload.simulator.execution import Worker
from pytest_comfyload.simulator.machine import SimulatedMachine
from pytest_comfyload.simulator.queue import PromptHistory, PromptQueue
from pytest_comfyload.simulator.settings import SimulatorSettings
from pytest_comfyload.simulator.versions import MAX_UPLOAD_BYTES
from pytest_comfyload.simulator.virtual_clock import VirtualClock

__all__ = ["SIMULATOR", "Simulator", "connect", "features"]

_CLOSE_SECONDS = 1.0


def features(settings: SimulatorSettings) -> dict[str, Any]:
    """Return the feature flags of the server."""
    return {"supports_preview_metadata": True, "max_upload_size": MAX_UPLOAD_BYTES, **settings.version.features}


async def connect(request: web.Request) -> web.WebSocketResponse:
    """Serve one WebSocket on /ws?clientId=…; a client without an id is assigned one."""
    simulator = request.app[SIMULATOR]
    socket = web.WebSocketResponse(timeout=_CLOSE_SECONDS)
    await socket.prepare(request)
    sid = request.query.get("clientId") or uuid.uuid4().hex
    simulator.hub.join(sid, socket)
    try:
        await _greet(simulator, sid, socket)
        first = True
        async for message in socket:
            if message.type == WSMsgType.TEXT:
                if first:
                    await _answer(simulator, sid, socket, message.data)
                first = False
    finally:
        simulator.hub.leave(sid)
    return socket


async def _greet(simulator: Simulator, sid: str, socket: web.WebSocketResponse) -> None:
    status = {"exec_info": {"queue_remaining": simulator.queue.remaining}}
    await socket.send_json({"type": "status", "data": {"status": status, "sid": sid}})
    node = simulator.executor.current_node(sid)
    if node is not None:
        await socket.send_json({"type": "executing", "data": {"node": node}})


async def _answer(simulator: Simulator, sid: str, socket: web.WebSocketResponse, text: str) -> None:
    """Answer a client's first message if it is its feature flags; ignore any other message."""
    try:
        message: Any = json.loads(text)
    except ValueError:
        return
    if isinstance(message, dict) and message.get("type") == "feature_flags":
        simulator.hub.set_flags(sid, message.get("data") or {})
        await socket.send_json({"type": "feature_flags", "data": features(simulator.settings)})


@dataclass(slots=True)
class Simulator:
    """Everything that a route may need; `down` is set when the server is to restart."""

    settings: SimulatorSettings
    clock: VirtualClock
    machine: SimulatedMachine
    queue: PromptQueue
    history: PromptHistory
    hub: Hub
    executor: Worker
    down: asyncio.Event


SIMULATOR = web.AppKey("simulator", Simulator)
