"""What a load could have measured: its plan, served again and again with service times redrawn from the measured ones.

The interval speaks of a rerun of this plan, not of a steady state, and is as good as its premise: service times that
neither drift nor depend on the load.
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

# Prompts of a run from which on arrays are faster than lists.
LEAST_FOR_ARRAYS = 1_000


def runs_of(
    plan: Plan, pools: Pools, rng: random.Random, *, servers: int = 1, dispatch: Dispatch = "shared", runs: int = 1000
) -> Iterator[Times]:
    """So many runs, each prompt redrawn with replacement from its pool.

    With numpy they are computed by columns where that is faster; the draws are the same, the times within rounding.
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
    """The run in which each prompt asks for what it did ask for, by its number; after the last one anew."""
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
    """The 5th to 95th percentile of `statistic` over so many runs with services redrawn from `pool`."""
    played = runs_of(plan, Pools(([pool] * servers,)), rng, servers=servers, dispatch=dispatch, runs=runs)
    return middle([statistic(times) for times in played])


def statistics_of(values: Sequence[float], qs: Sequence[float | None]) -> list[float]:
    """Percentiles of some times, or for None their mean over successes (nan without any)."""
    if not isinstance(values, list | tuple):
        from pytest_comfyload.metrics import replay_arrays

        return replay_arrays.statistics_of(values, qs)
    ordered = sorted(values)
    finite = ordered[: bisect.bisect_left(ordered, math.inf)]
    mean = statistics.fmean(finite) if finite else math.nan
    return [mean if q is None else percentile_of(ordered, q) for q in qs]


def count_within(values: Sequence[float], bound: float, *, inclusive: bool) -> int:
    """Count the times below a bound, or up to it."""
    if not isinstance(values, list | tuple):
        from pytest_comfyload.metrics import replay_arrays

        return replay_arrays.count_within(values, bound, inclusive=inclusive)
    return sum(map(bound.__ge__ if inclusive else bound.__gt__, values))


def middle(results: Sequence[float]) -> Interval:
    """Nine tenths of them: from the 5th to the 95th percentile."""
    return Interval(percentile(results, 5), percentile(results, 95))
