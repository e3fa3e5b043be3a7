"""What the servers of a run have installed beside ComfyUI, asked once before the load.

Not every server tells, and none is waited for: what it does not say in a moment stays unknown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.errors import ServerError
from pytest_comfyload.run.target import unsocketed

__all__ = ["Installed", "installed_on"]

_T = TypeVar("_T")

# Real seconds for each answer.
PATIENCE = 2.0


@dataclass(frozen=True, slots=True)
class Installed:
    """Of one server: commit or version by custom node pack, and bytes by folder of models and file."""

    custom_nodes: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


async def installed_on(servers: Sequence[ServerAddress], folders: Sequence[str]) -> tuple[Installed, ...]:
    """Of each server, in that order; of its models those in `folders`."""
    return tuple(await asyncio.gather(*(_installed(server, folders) for server in servers)))


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
