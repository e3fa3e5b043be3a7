"""The parts of one simulated server, as its routes find them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aiohttp import web

from pytest_comfyload.simulator.clock import VirtualClock
from pytest_comfyload.simulator.events import Hub
from pytest_comfyload.simulator.execution import Executor
from pytest_comfyload.simulator.history import History
from pytest_comfyload.simulator.machine import Machine
from pytest_comfyload.simulator.queue import PromptQueue
from pytest_comfyload.simulator.settings import Settings

__all__ = ["SIMULATOR", "Simulator"]


@dataclass(slots=True)
class Simulator:
    """Everything a route may need; `down` is set when the server shall go down and come up again."""

    settings: Settings
    clock: VirtualClock
    machine: Machine
    queue: PromptQueue
    history: History
    hub: Hub
    executor: Executor
    down: asyncio.Event


SIMULATOR = web.AppKey("simulator", Simulator)
