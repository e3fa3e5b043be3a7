"""Replays: what a load could have measured, if served again with service times resampled from the measured ones.

The interval is about a rerun of this plan, not a steady state. It presumes that service times neither drift nor depend
on the load.
"""

from __future__ import annotations

import bisect
import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType

from pytest_comfyload.metrics.intervals import Interval, percentile, percentile_of
from pytest_comfyload.metrics.load_plan import Arrivals, Plan, Pools, Service, Times, play
from pytest_comfyload.metrics.queueing import Dispatch

__all__ = ["count_within", "measured_order", "middle", "replay", "runs_of", "statistics_of"]

# The number of prompts for which arrays are faster than lists.
LEAST_FOR_ARRAYS = 1_000


def runs_of(
    plan: Plan, pools: Pools, rng: random.Random, *, servers: int = 1, dispatch: Dispatch = "shared", runs: int = 1000
) -> Iterator[Times]:
    """Return an iterator over `runs` runs, in which each prompt's service is resampled with replacement from its pool.

    With numpy, columns are used if that is faster; the draws are the same, and the times equal within rounding.
    """
    if len(pools.kinds) >= LEAST_FOR_ARRAYS and (arrays := _arrays()):
        reruns = arrays.ArrayReruns.of(plan, pools, rng, servers, dispatch)
        if reruns is not None:
            return (reruns.next() for _ in range(runs))
    uniform = rng.random

    def draw(k: int, server: int) -> Service:
        pool = pools.of(k, server)
        return pool[int(uniform() * len(pool))]

    return (play(plan, draw, servers, dispatch) for _ in range(runs))


def measured_order(plan: Plan, services: Sequence[Service], servers: int, dispatch: Dispatch) -> Times:
    """Return the run in which each prompt has its own service, by number; the services repeat after the last one."""
    by_columns = isinstance(plan, Arrivals) and servers == 1 and len(services) == len(plan.at) >= LEAST_FOR_ARRAYS
    if by_columns and (arrays := _arrays()):
        times: Times = arrays.served(plan, services)
        return times
    return play(plan, lambda k, server: services[k % len(services)], servers, dispatch)


def _arrays() -> ModuleType | None:
    try:
        from pytest_comfyload.metrics import replay_arrays
    except ImportError:  # numpy is an extra
        return None
    return replay_arrays


def replay(
    plan: Plan,
    pool: Sequence[Service],
    statistic: Callable[[Times], float],
    rng: random.Random,
    *,
    servers: int = 1,
    dispatch: Dispatch = "shared",
    runs: int = 1000,
) -> Interval:
    """Return the 5th to 95th percentile of `statistic` over `runs` runs with services resampled from `pool`."""
    played = runs_of(plan, Pools(([pool] * servers,)), rng, servers=servers, dispatch=dispatch, runs=runs)
    return middle([statistic(times) for times in played])


def statistics_of(values: Sequence[float], qs: Sequence[float | None]) -> list[float]:
    """Return percentiles of times, or for None their mean over successes (nan if there are none)."""
    if not isinstance(values, list | tuple):
        from pytest_comfyload.metrics import replay_arrays

        return replay_arrays.statistics_of(values, qs)
    ordered = sorted(values)
    finite = ordered[: bisect.bisect_left(ordered, math.inf)]
    mean = statistics.fmean(finite) if finite else math.nan
    return [mean if q is None else percentile_of(ordered, q) for q in qs]


def count_within(values: Sequence[float], bound: float, *, inclusive: bool) -> int:
    """Count the times below a bound, or up to it if `inclusive`."""
    if not isinstance(values, list | tuple):
        from pytest_comfyload.metrics import replay_arrays

        return replay_arrays.count_within(values, bound, inclusive=inclusive)
    return sum(map(bound.__ge__ if inclusive else bound.__gt__, values))


def middle(results: Sequence[float]) -> Interval:
    """Return the interval of the middle 90 %, from the 5th to the 95th percentile."""
    return Interval(percentile(results, 5), percentile(results, 95))
