"""GPUs as ComfyUI itself tells of them: the memory of its devices, and nothing else.

The only source on AMD and Apple. Memory that torch keeps for later use counts as free here.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.comfy import ComfyClient
from pytest_comfyload.gpu.metric_names import Card
from pytest_comfyload.gpu.polling import Poller, wall_period
from pytest_comfyload.gpu.source import Keep, Now
from pytest_comfyload.protocol.bodies import SystemStats, own_devices
from pytest_comfyload.protocol.messages import finite

__all__ = ["SystemStatsSource", "devices_of"]

# Seconds of the run's clock between two looks: each takes the server a moment of its own event loop.
STATS_PERIOD = 2.0


class SystemStatsSource:
    """The devices of one server; `scale` is that of the run's clock."""

    def __init__(self, address: ServerAddress, scale: float = 1.0) -> None:
        self.server = address.url
        self._address = address
        self._poller = Poller(self.server, f"{self.server}/system_stats", wall_period(STATS_PERIOD, scale))

    @property
    def losses(self) -> tuple[str, ...]:
        return self._poller.losses

    @contextlib.asynccontextmanager
    async def watching(self, keep: Keep, now: Now) -> AsyncIterator[None]:
        client = ComfyClient(self._address)

        async def read() -> Sequence[Card]:
            return devices_of(await client.system_stats())

        try:
            async with self._poller.watching(read, keep, now):
                yield
        finally:
            await client.aclose()

    def __str__(self) -> str:
        return "system_stats (memory only)"


def devices_of(stats: SystemStats) -> list[Card]:
    """The GPUs that the server works on; none where it works on its processor."""
    return [_card(device) for device in own_devices(stats.raw) if device.get("type") != "cpu"]


def _card(device: Mapping[str, Any]) -> Card:
    kind, index = str(device.get("type") or "gpu"), device.get("index")
    number = "" if index is None else str(index)
    total, free = finite(device.get("vram_total")), finite(device.get("vram_free"))
    values = {} if total is None or free is None else {"memory_used": total - free, "memory_total": total}
    return Card(f"{kind}:{number}".rstrip(":"), number, str(device.get("name") or kind), values)
