"""How often replay intervals hold what reruns measure, for each kind of load, and how wide they are.

    python -m tests.benchmarks.bench_coverage [TRIALS [RERUNS]]

Columns, all for the P95 of total_time: `upper`, how often the upper end is at or above the median of reruns of the same
plan; `rerun`, how often a single rerun lies within the interval; `refused`, how often a guard refuses a run; `width`,
the mean width of the interval relative to that median.
"""

from __future__ import annotations

import itertools
import random
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pytest_comfyload.result import replay_estimate as reruns
from pytest_comfyload.result.load_result import LoadResult
from tests.result.queued import arrived, lognormal, of_users

RERUNS = 31


class Row(NamedTuple):
    """A kind of load; each call of `load_of` makes a run of the same plan, with newly drawn services."""

    name: str
    load_of: Callable[[random.Random, list[float]], LoadResult]
    rate: float = 1.0
    prompts: int = 300


def rows(cv: float) -> Iterator[Row]:
    yield Row("closed 10×10", lambda rng, at: of_users(10, 10, lognormal(rng, cv)))
    yield Row("closed 20×30", lambda rng, at: of_users(20, 30, lognormal(rng, cv)))
    yield Row("burst 60", lambda rng, at: arrived([0.0] * 60, lognormal(rng, cv)))
    for load in (0.5, 0.8, 0.9):
        yield Row(f"Poisson ρ={load}", lambda rng, at: arrived(at, lognormal(rng, cv)), load)
    yield Row("Poisson ρ=0.8, two servers", lambda rng, at: arrived(at, lognormal(rng, cv), 2), 1.6)


def measure(row: Row, trials: int) -> str:
    upper = rerun = refused = 0
    widths = []
    for seed in range(trials):
        rng = random.Random(f"{row.name}/{seed}")
        at = list(itertools.accumulate(rng.expovariate(row.rate) for _ in range(row.prompts)))
        load = row.load_of(rng, at)
        interval = load._reruns.interval("total_time", 95, float(load.total_time.p95))
        again = [float(row.load_of(rng, at).total_time.p95) for _ in range(RERUNS)]
        truth = statistics.median(again)
        upper += truth <= interval.upper
        rerun += interval.covers(again[0])
        refused += load._reruns.objection is not None
        widths.append((interval.upper - interval.lower) / truth)
    shares = "  ".join(f"{100 * count / trials:5.0f} %" for count in (upper, rerun, refused))
    return f"{row.name:28}{shares}  {100 * statistics.fmean(widths):5.0f} %"


def main(trials: int = 100, of_each: int = 200) -> None:
    reruns.MOST_RUNS = of_each
    for cv in (0.1, 0.3):
        print(f"{f'cv {cv}':28}  upper    rerun  refused    width")
        for row in rows(cv):
            print(measure(row, trials), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
