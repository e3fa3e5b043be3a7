"""Manual GPU sampling: `with gpu.sampling() as usage` samples the servers' GPUs during a block, even without a load."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.clock import Clock
from pytest_comfyload.errors import ComfyloadError
from pytest_comfyload.gpu.choose import Chosen, choose, choose_local
from pytest_comfyload.gpu.collector import GpuCollector
from pytest_comfyload.gpu.nvml import NvmlSource
from pytest_comfyload.gpu.spec import GpuSpec
from pytest_comfyload.result.gpu_usage import GpuUsage, read_at
from pytest_comfyload.result.run_facts import GpuFacts
from pytest_comfyload.result.telemetry import GpuSample
from pytest_comfyload.run.target import Target, inspect_target

__all__ = ["GpuSampler", "GpuWatch", "SampledUsage"]


class SampledUsage(GpuUsage):
    """The usage of the GPUs while the block ran, available when it is over. Times are those of the servers' clock.

    `sources` has a line for each server with the source of its GPU data. `losses` are sentences about missing data.
    """

    def __init__(self) -> None:
        super().__init__((), (0.0, 0.0))
        self.sources: tuple[str, ...] = ()
        self.losses: tuple[str, ...] = ()

    def take(self, samples: Sequence[GpuSample], window: tuple[float, float], losses: Sequence[str]) -> None:
        self.samples, self._window, self.losses = tuple(samples), window, tuple(losses)
        self._absent_because = read_at(self.sources)


class GpuSampler:
    """The `gpu` object of tests.

    Args:
        servers: Returns the servers, and may start one.
        workers: The servers behind a balancer, whose GPUs are sampled instead.
        specs: By URL, where a server's GPUs are read.
        expect: Raises an error if the servers are not as required.
        say: Called with a line for each server, with the source of its GPU data.
        local: No server was named, so this machine's GPUs are sampled if it has any.
    """

    def __init__(
        self,
        servers: Callable[[], Sequence[ServerAddress]],
        workers: Sequence[ServerAddress] = (),
        specs: Mapping[str, GpuSpec] | None = None,
        expect: Callable[[Target], None] = lambda target: None,
        say: Callable[[Sequence[str]], None] = lambda lines: None,
        *,
        local: bool = False,
    ) -> None:
        self._servers = servers
        self._workers = tuple(workers)
        self._specs = specs or {}
        self._expect = expect
        self._say = say
        self._local = local

    @contextlib.contextmanager
    def sampling(self) -> Iterator[SampledUsage]:
        """Sample the GPUs while the block runs, in the units of `load.gpu`: percent, bytes, °C, W and MHz.

        Raises: UsageError and ServerError before the block begins.
        """
        __tracebackhide__ = True
        usage, begun = SampledUsage(), Future[Callable[[], object]]()
        here = choose_local() if self._local else None
        servers = self._servers() if here is None else ()
        # The event loop has its own thread, since the test's block may run for a long time.
        with ThreadPoolExecutor(1, "comfyload-gpu") as pool:
            sampling = pool.submit(lambda: asyncio.run(self._sample(servers, here, usage, begun)))
            _either(begun, sampling)
            _raise_of(sampling)
            self._say(usage.sources)
            try:
                yield usage
            finally:
                begun.result()()
                sampling.result()

    async def _sample(
        self,
        servers: Sequence[ServerAddress],
        here: Chosen | None,
        usage: SampledUsage,
        begun: Future[Callable[[], object]],
    ) -> None:
        gpus, clock = await self._watch(servers) if here is None else (GpuWatch([here]), Clock())
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        usage.sources = gpus.lines
        start = clock.now()
        async with gpus.watching(clock):
            begun.set_result(lambda: loop.call_soon_threadsafe(over.set))
            await over.wait()
        # Includes the samples taken at both ends, which are the only ones of a short block.
        usage.take(gpus.samples, (start, clock.now()), gpus.losses)

    async def _watch(self, servers: Sequence[ServerAddress]) -> tuple[GpuWatch, Clock]:
        target = await inspect_target(servers, self._workers)
        self._expect(target)
        return await GpuWatch.of(target, self._specs), Clock(target.time_scale or 1.0)


def _either(begun: Future[Any], ended: Future[Any]) -> None:
    """Wait for either of the futures."""
    wait([begun, ended], return_when=FIRST_COMPLETED)


def _raise_of(sampling: Future[None]) -> None:
    """Raise the error that ended the sampling before it began, without its traceback if it is this package's."""
    __tracebackhide__ = True
    if sampling.done() and (error := sampling.exception()) is not None:
        raise error.with_traceback(None) if isinstance(error, ComfyloadError) else error


class GpuWatch:
    """The GPUs of several servers, each with its source.

    `lines` say which source each server has, and `facts` describe the GPUs. After `watching`, `samples` and `losses`
    have the results.
    """

    def __init__(self, chosen: Sequence[Chosen]) -> None:
        self._sources = [each.source for each in chosen if each.source is not None]
        self._collector = GpuCollector()
        self.lines = tuple(each.line for each in chosen)
        self.facts: tuple[GpuFacts, ...] = tuple(facts for each in chosen for facts in each.facts)

    @classmethod
    async def of(cls, target: Target, specs: Mapping[str, GpuSpec]) -> GpuWatch:
        """Choose a source for each server that computes, as specified or else detected. Raises: UsageError."""
        watched = zip(target.workers or target.servers, target.worker_stats or target.stats, strict=True)
        return cls(await asyncio.gather(*(choose(server, stats, specs.get(server.url)) for server, stats in watched)))

    @property
    def samples(self) -> tuple[GpuSample, ...]:
        return self._collector.samples

    @property
    def losses(self) -> tuple[str, ...]:
        """Sentences about missing GPU data."""
        return tuple(loss for source in self._sources for loss in source.losses)

    @property
    def notes(self) -> tuple[str, ...]:
        """The losses, and sentences about other users of the GPUs."""
        company = (note for source in self._sources if isinstance(source, NvmlSource) for note in source.company)
        return (*self.losses, *company)

    @contextlib.asynccontextmanager
    async def watching(self, clock: Clock) -> AsyncIterator[None]:
        """Collect samples while the context lasts. Raises: UsageError if a source cannot start."""
        async with contextlib.AsyncExitStack() as stack:
            for source in self._sources:
                await stack.enter_async_context(source.watching(self._collector.keep, clock.now))
            yield
