"""GPUs by a Prometheus endpoint: NVIDIA's DCGM exporter, our own monitor, or a simulated server's /metrics."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.transport import Transport
from pytest_comfyload.gpu.metric_names import Card, cards_of
from pytest_comfyload.gpu.polling import PATIENCE, Poller, Read, wall_period
from pytest_comfyload.gpu.prometheus_text import parse_metrics
from pytest_comfyload.gpu.source import Keep, Now

__all__ = ["MetricsSource"]

# Seconds of the run's clock between two looks.
PERIOD = 1.0


class MetricsSource:
    """The endpoint's GPUs, or those `gpus` of them, by UUID or number; `scale` is that of the run's clock."""

    def __init__(self, server: str, endpoint: ServerAddress, gpus: Sequence[str] = (), scale: float = 1.0) -> None:
        self.server = server
        self._endpoint = endpoint
        self._gpus = tuple(gpus)
        self._poller = Poller(server, str(self), wall_period(PERIOD, scale))

    @property
    def losses(self) -> tuple[str, ...]:
        return self._poller.losses

    @contextlib.asynccontextmanager
    async def watching(self, keep: Keep, now: Now) -> AsyncIterator[None]:
        async with self._reading() as read, self._poller.watching(read, keep, now):
            yield

    async def cards(self) -> Sequence[Card]:
        """One look at them. Raises: ServerError."""
        async with self._reading() as read:
            return await read()

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncIterator[Read]:
        transport = Transport(self._endpoint, deadline=PATIENCE)

        async def read() -> Sequence[Card]:
            text = (await transport.get_bytes("")).decode("utf-8", "replace")
            cards = cards_of(parse_metrics(text))
            return [card for card in cards if not self._gpus or card.is_one_of(self._gpus)]

        try:
            yield read
        finally:
            await transport.aclose()

    def __str__(self) -> str:
        return f"metrics {self._endpoint.url}" + (f"#{','.join(self._gpus)}" if self._gpus else "")
