"""The GPUs of a run's servers, watched while its load runs: a source for each server, all samples in one place."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence

from pytest_comfyload.client.clock import Clock
from pytest_comfyload.gpu.choose import Chosen, choose
from pytest_comfyload.gpu.collector import GpuCollector
from pytest_comfyload.gpu.nvml import NvmlSource
from pytest_comfyload.gpu.spec import GpuSpec
from pytest_comfyload.result.run_facts import GpuFacts
from pytest_comfyload.result.telemetry import GpuSample
from pytest_comfyload.run.target import Target

__all__ = ["GpuWatch"]


class GpuWatch:
    """`lines` tell which source serves which server, `facts` what their GPUs are; after `watching`, `samples` and
    `losses` hold what came of it.
    """

    def __init__(self, chosen: Sequence[Chosen]) -> None:
        self._sources = [each.source for each in chosen if each.source is not None]
        self._collector = GpuCollector()
        self.lines = tuple(each.line for each in chosen)
        self.facts: tuple[GpuFacts, ...] = tuple(facts for each in chosen for facts in each.facts)

    @classmethod
    async def of(cls, target: Target, specs: Mapping[str, GpuSpec]) -> GpuWatch:
        """A source for each server that computes, as the user says or as it is found. Raises: UsageError."""
        watched = zip(target.workers or target.servers, target.worker_stats or target.stats, strict=True)
        return cls(await asyncio.gather(*(choose(server, stats, specs.get(server.url)) for server, stats in watched)))

    @property
    def samples(self) -> tuple[GpuSample, ...]:
        return self._collector.samples

    @property
    def losses(self) -> tuple[str, ...]:
        """What of the GPUs was not seen, each a sentence."""
        return tuple(loss for source in self._sources for loss in source.losses)

    @property
    def notes(self) -> tuple[str, ...]:
        """The losses, and who else used the GPUs."""
        company = (note for source in self._sources if isinstance(source, NvmlSource) for note in source.company)
        return (*self.losses, *company)

    @contextlib.asynccontextmanager
    async def watching(self, clock: Clock) -> AsyncIterator[None]:
        """Raises: UsageError where a source cannot begin."""
        async with contextlib.AsyncExitStack() as stack:
            for source in self._sources:
                await stack.enter_async_context(source.watching(self._collector.keep, clock.now))
            yield
