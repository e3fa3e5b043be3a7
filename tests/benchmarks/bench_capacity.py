"""A day of 100,000 images under each discipline beside simpy, mean waits beside formulas, plans beside folklore.

    python -m tests.benchmarks.bench_capacity [--images 100000] [--millions 16]

CPU seconds are the minimum of three rounds, in which all rows alternate. simpy has no built-in fairness, affinity,
autoscaling or failures, so those rows have no peer. Ratios to the formulas are means of independent runs of a million
prompts, with 99 % intervals. The plans are those of `comfyload plan` for the four rules of thumb in its GPU file.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import get_args

from pytest_comfyload.capacity.capacity_plan import make_plan
from pytest_comfyload.capacity.evaluation import Strategy
from pytest_comfyload.capacity.fleet import KEDA, Affinity, Autoscaling, Demand, Failures, Fleet
from pytest_comfyload.capacity.gpus import GpuFile, shipped_gpus
from pytest_comfyload.capacity.plan_answer import PlanQuestion
from pytest_comfyload.capacity.service_fit import of_figures
from pytest_comfyload.capacity.simulation import simulate
from pytest_comfyload.capacity.workload import Workload
from pytest_comfyload.metrics.intervals import percentile
from pytest_comfyload.metrics.slo import Slo
from tests.capacity.simpy_oracle import starts_by_simpy
from tests.capacity.theory import MM4, ONE_SERVER, RHOS, compare

ROUNDS = 3
STRATEGIES = get_args(Strategy)
SERVERS, DAY, RHO, CV, PEOPLE = 10, 86_400.0, 0.8, 0.3, 1000
_AFFINITY, _FAILURES = Affinity(switch=2, overtake=30), Failures(mean_time_between=DAY, repair=600)
# Autoscaled fleets have twice the servers, most of them off, as reserve for model loads, cold starts and failures.
FLEETS = {
    "one queue": Fleet(SERVERS),
    "random": Fleet(SERVERS, dispatch="random"),
    "least_queue": Fleet(SERVERS, dispatch="least_queue"),
    "priorities": Fleet(SERVERS, "priority"),
    "fairness": Fleet(SERVERS, "fair"),
    "affinity": Fleet(SERVERS, affinity=_AFFINITY),
    "serverless": Fleet(2 * SERVERS, autoscaling=Autoscaling(cold_start=45, idle=120)),
    "failures": Fleet(SERVERS, failures=_FAILURES),
    "all, priorities": Fleet(2 * SERVERS, "priority", "shared", _AFFINITY, KEDA, _FAILURES),
    "all, fairness": Fleet(2 * SERVERS, "fair", "shared", _AFFINITY, KEDA, _FAILURES),
}


def day(images: int) -> Demand:
    """Return Poisson arrivals and lognormal services with a utilization of `RHO`, independent of all else."""
    rng = random.Random(1)
    mean, sigma = RHO * SERVERS * DAY / images, math.sqrt(math.log(1 + CV**2))
    arrivals = list(itertools.accumulate(rng.expovariate(images / DAY) for _ in range(images)))
    services = [mean * rng.lognormvariate(-(sigma**2) / 2, sigma) for _ in range(images)]
    people, priorities, models = ([rng.randrange(many) for _ in range(images)] for many in (PEOPLE, 3, 4))
    return Demand(arrivals, services, people, priorities, models, until=DAY)


def seconds_of(work: Callable[[], object]) -> float:
    """Return the CPU seconds of a piece of work."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000, help="of the day (default: 100,000)")
    parser.add_argument("--millions", type=int, default=16, help="prompts of each queue (default: 16; 0: none)")
    chosen = parser.parse_args()
    disciplines(day(chosen.images))
    plans()
    if chosen.millions:
        print(f"\n{'':<14}{'rho':<7}{'prompts':>8}{'ratio to theory':>20}{'CPU':>10}")
        for queue, rho in itertools.product((*ONE_SERVER, MM4), RHOS):
            print(compare(queue, rho, runs=chosen.millions), flush=True)


def disciplines(demand: Demand) -> None:
    """Print the table of a day with each fleet."""
    works: dict[str, Callable[[], object]] = {name: partial(simulate, demand, fleet) for name, fleet in FLEETS.items()}
    works["simpy, one queue"] = partial(starts_by_simpy, demand, SERVERS)
    works["simpy, priorities"] = partial(starts_by_simpy, demand, SERVERS, priorities=True)
    rounds = [{name: seconds_of(work) for name, work in works.items()} for _ in range(ROUNDS)]
    least = {name: min(each[name] for each in rounds) for name in works}
    head = f"{'CPU s':>8}{'simpy':>8}{'ratio':>7}{'mean wait s':>13}{'p95':>8}{'paid/busy':>11}"
    print(f"{f'{len(demand.arrivals):,} images':<20}{head}")
    for name, fleet in FLEETS.items():
        ran, peer = simulate(demand, fleet), least.get(f"simpy, {name}")
        waits = ran.waits
        beside = f"{peer:>8.2f}{peer / least[name]:>7.1f}" if peer else f"{'-':>8}{'-':>7}"
        figures = f"{statistics.fmean(waits):>13.3f}{percentile(waits, 95):>8.2f}{ran.paid / ran.busy:>11.2f}"
        print(f"{name:<20}{least[name]:>8.3f}{beside}{figures}")


def plans() -> None:
    """Print how many GPUs each strategy needs, and the resulting p95, next to the rules of thumb."""
    print(f"\n{'people, images a day':<22}{'rule of thumb':<16}" + "".join(f"{each:>20}" for each in STRATEGIES))
    seconds = 0.0
    gpus = GpuFile.parse(shipped_gpus(), "gpus.toml")
    for rule in gpus.fleet_rule:
        named = sorted(gpus.known_for(None), key=rule.gpu.__ne__)
        services = [of_figures(gpu, None, gpus) for gpu in named]
        workload = Workload(rule.people, rule.images_per_day, mix={"an image": 1.0})
        begin = time.process_time()
        slo = Slo.parse("total_time.p95 < 60")
        made = make_plan(PlanQuestion(workload=workload, slo=slo, services=tuple(services), gpus=gpus))
        seconds += time.process_time() - begin
        found = {row.strategy: row.evaluation for row in made.rows}
        shown = [f"{each.gpus}, {each.p95:.3g} s" if each else "none" for each in map(found.get, STRATEGIES)]
        who = f"{rule.people}, {rule.images_per_day:g}"
        print(f"{who:<22}{f'{rule.gpus} {rule.gpu}':<16}" + "".join(f"{each:>20}" for each in shown))
    print(f"{seconds:.1f} CPU s")


if __name__ == "__main__":
    main()
