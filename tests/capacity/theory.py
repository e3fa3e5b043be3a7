"""Simulated queues with a closed-form mean wait: Poisson arrivals, services with a mean of 1 s.

Gaps and services of each run are scaled to their true means, which reduces the spread between runs by 10-50 %.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pytest_comfyload.capacity.fleet import Demand, Fleet
from pytest_comfyload.capacity.simulation import simulate
from pytest_comfyload.metrics.intervals import t_quantile
from pytest_comfyload.metrics.replay_arrays import waits_of
from tests.metrics.closed_forms import mg1_mean_wait, mmc_mean_wait

__all__ = ["MM4", "ONE_SERVER", "RHOS", "Compared", "KnownQueue", "compare"]

Column: TypeAlias = NDArray[np.float64]

RHOS = (0.5, 0.8, 0.95)


@dataclass(frozen=True, slots=True)
class KnownQueue:
    """A queue whose mean wait is known; services with a `cv` of 1 are exponential, others lognormal."""

    name: str
    servers: int
    cv: float

    def mean_wait(self, rho: float) -> float:
        """Return the mean wait in seconds by the formula."""
        if self.servers == 1:
            return mg1_mean_wait(rho, 1, self.cv)
        return mmc_mean_wait(rho * self.servers, 1, self.servers)

    def simulated(self, rho: float, prompts: int, rng: np.random.Generator) -> float:
        """Return the mean wait of one run: by arrays for one server, by the fleet simulation for several."""
        arrivals, services = self.drawn(rho, prompts, rng)
        if self.servers == 1:
            return float(waits_of(arrivals, services).mean())
        return statistics.fmean(simulate(Demand(arrivals.tolist(), services.tolist()), Fleet(self.servers)).waits)

    def drawn(self, rho: float, prompts: int, rng: np.random.Generator) -> tuple[Column, Column]:
        """Return random arrivals and services."""
        gaps = rng.standard_exponential(prompts)
        if self.cv == 1:
            services = rng.standard_exponential(prompts)
        else:
            services = np.exp(rng.standard_normal(prompts) * math.sqrt(math.log(1 + self.cv**2)))
        return np.cumsum(gaps * (1 / (gaps.mean() * rho * self.servers))), services / services.mean()


ONE_SERVER = (KnownQueue("M/M/1", 1, 1.0), KnownQueue("M/G/1 cv .3", 1, 0.3))
MM4 = KnownQueue("M/M/4", 4, 1.0)


class Compared(NamedTuple):
    """The ratio of the mean wait of independent runs to the formula's, with half the width of its 99 % interval."""

    queue: KnownQueue
    rho: float
    prompts: int
    ratio: float
    half_width: float
    seconds: float

    def __str__(self) -> str:
        interval = f"{self.ratio:.4f} ± {self.half_width:.4f}"
        return f"{self.queue.name:<14}{self.rho:<7g}{self.prompts / 1e6:>6.1f} M{interval:>20}{self.seconds:>8.1f} s"


def compare(queue: KnownQueue, rho: float, runs: int, prompts: int = 1_000_000, seed: int = 1) -> Compared:
    """Run a queue `runs` times with `prompts` prompts each; every run has its own random generator."""
    begin = time.process_time()
    means = list(_means(queue, rho, runs, prompts, seed))
    expected = queue.mean_wait(rho)
    spread = statistics.stdev(means) / math.sqrt(runs)
    return Compared(
        queue,
        rho,
        runs * prompts,
        statistics.fmean(means) / expected,
        t_quantile(0.995, runs - 1) * spread / expected,
        time.process_time() - begin,
    )


def _means(queue: KnownQueue, rho: float, runs: int, prompts: int, seed: int) -> Iterator[float]:
    for child in np.random.SeedSequence(seed).spawn(runs):
        yield queue.simulated(rho, prompts, np.random.Generator(np.random.PCG64(child)))
