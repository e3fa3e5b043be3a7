"""Inspection of a run's servers before the load: their kind, their clock, and what they can run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.comfy import ComfyClient
from pytest_comfyload.errors import ComfyloadError, ServerError, UsageError
from pytest_comfyload.protocol.system_stats import SystemStats
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.run.background import run_in_background
from pytest_comfyload.scenario.scenario import Scenario, WorkflowSource
from pytest_comfyload.workflow.workflow import Workflow

__all__ = [
    "ComfyServers",
    "Installed",
    "Target",
    "inspect_target",
    "installed_on",
    "object_info_of",
    "unsocketed",
    "wait_for_quiet",
]


@dataclass(frozen=True, slots=True)
class Target:
    """One or more servers of the same kind, and the workers behind them. `time_scale` is None for real servers."""

    servers: tuple[ServerAddress, ...]
    stats: tuple[SystemStats, ...]
    time_scale: float | None
    workers: tuple[ServerAddress, ...] = ()
    worker_stats: tuple[SystemStats, ...] = ()

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(server.url for server in self.servers)


async def inspect_target(servers: Sequence[ServerAddress], workers: Sequence[ServerAddress] = ()) -> Target:
    """Return the target of a run. Raises: ServerError; UsageError if real and simulated servers are mixed."""
    everyone = (*servers, *workers)
    stats = await asyncio.gather(*(_stats_of(each) for each in everyone))
    scales = {each.time_scale for each in stats}
    if len(scales) > 1:
        kinds = "; ".join(
            f"{server.url} is " + (f"simulated at ×{each.time_scale:g}" if each.time_scale else "real")
            for server, each in zip(everyone, stats, strict=True)
        )
        raise UsageError(f"one run cannot mix real and simulated servers: {kinds}; give servers of one kind")
    driven = len(servers)
    return Target(everyone[:driven], tuple(stats[:driven]), scales.pop(), everyone[driven:], tuple(stats[driven:]))


async def _stats_of(server: ServerAddress) -> SystemStats:
    async with unsocketed(server) as client:
        return await client.system_stats()


async def object_info_of(server: ServerAddress, workflow: Workflow) -> Mapping[str, Any]:
    """Return the server's object info for the workflow's classes; for all classes if one of these is missing.

    Raises: ServerError.
    """
    async with unsocketed(server) as client:
        answers = await asyncio.gather(*(client.object_info(each) for each in sorted(workflow.classes)))
        if all(answers):
            return {name: info for answer in answers for name, info in answer.items()}
        return await client.object_info()


async def wait_for_quiet(servers: Sequence[ServerAddress], say: Callable[[str], None] = lambda text: None) -> None:
    """Poll the servers every second until none has a prompt left. Raises: ServerError."""
    for server in servers:
        async with unsocketed(server) as client:
            if prompts := await _prompts(client):
                say(f"comfyload: waiting until {server.url} is idle; its queue holds {prompts}")
            while prompts:
                await asyncio.sleep(1.0)
                prompts = await _prompts(client)


async def _prompts(client: ComfyClient) -> int:
    queue = await client.queue()
    return len(queue.running) + len(queue.pending)


@contextlib.asynccontextmanager
async def unsocketed(server: ServerAddress) -> AsyncIterator[ComfyClient]:
    client = ComfyClient(server)
    try:
        yield client
    finally:
        await client.aclose()


T = TypeVar("T")


class ComfyServers:
    """The servers of a test session, as the `comfyui` object of tests. `url` is that of the first server."""

    def __init__(
        self, addresses: Sequence[ServerAddress], run: Callable[[Scenario, str, Path], LoadResult], files: Path
    ) -> None:
        self._addresses = tuple(addresses)
        self._run = run
        self._files = files

    @property
    def url(self) -> str:
        """The first server's URL, without credentials."""
        return self._addresses[0].url

    @property
    def urls(self) -> tuple[str, ...]:
        """The servers' URLs, without credentials."""
        return tuple(address.url for address in self._addresses)

    def system_stats(self) -> Mapping[str, Any]:
        """Return the first server's /system_stats, unchanged. Raises: ServerError."""
        __tracebackhide__ = True
        return _in_one_message(lambda: run_in_background(lambda: inspect_target(self._addresses[:1])).stats[0].raw)

    def submit(self, workflow: WorkflowSource, inputs: Mapping[str, Any] | None = None, **kwargs: Any) -> Outcome:
        """Run one prompt and return its outcome; further arguments as in `load_scenario`. Raises: ComfyloadError."""
        __tracebackhide__ = True

        def run() -> Outcome:
            scenario = Scenario.build_in(self._files, workflow, inputs=inputs, warmup=0, **kwargs)
            return self._run(scenario, scenario.workflow_name, self._files).outcomes[0]

        return _in_one_message(run)


def _in_one_message(call: Callable[[], T]) -> T:
    """Return the result of `call`, and raise its errors without a traceback through this package.

    A test may catch them, and pytest shows them as one message.
    """
    __tracebackhide__ = True
    try:
        return call()
    except ComfyloadError as error:
        raise error.with_traceback(None) from None


_T = TypeVar("_T")

# Real seconds to wait for each answer.
PATIENCE = 2.0


@dataclass(frozen=True, slots=True)
class Installed:
    """What is installed on one server.

    `custom_nodes` are commits or versions by custom node pack, and `models` sizes in bytes by model folder and file.
    """

    custom_nodes: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


async def installed_on(
    servers: Sequence[ServerAddress], folders: Sequence[str], custom_nodes: Mapping[str, str] | None = None
) -> tuple[Installed, ...]:
    """Return what is installed on each server, in their order, with the models in `folders`.

    `custom_nodes` are versions by pack that are already known.
    """
    told = await asyncio.gather(*(_installed(server, folders) for server in servers))
    return tuple(replace(each, custom_nodes={**each.custom_nodes, **(custom_nodes or {})}) for each in told)


async def _installed(server: ServerAddress, folders: Sequence[str]) -> Installed:
    async with unsocketed(server) as client:
        models = [_told(client.model_sizes(folder)) for folder in folders]
        custom_nodes, sizes = await asyncio.gather(_told(client.custom_nodes()), asyncio.gather(*models))
    return Installed(custom_nodes, dict(zip(folders, sizes, strict=True)))


async def _told(answer: Awaitable[Mapping[str, _T]]) -> Mapping[str, _T]:
    try:
        async with asyncio.timeout(PATIENCE):
            return await answer
    except (ServerError, TimeoutError):
        return {}
