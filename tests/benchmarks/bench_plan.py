"""A plan against measurement: predicted waits of schedules, and the waits of two servers that get these schedules.

    python -m tests.benchmarks.bench_plan [--servers real|simulators] [--prompts 300] [--rhos 0.3 0.5 0.7]

For each utilisation, 120 service times are measured with both servers busy. Then a schedule of Poisson arrivals is
drawn, and its waits are predicted from these service times alone, before it is sent. A prediction is the median of 200
simulations with resampled service times; the interval contains 90 % of them. The last two columns distinguish an error
of the queue model from a machine that became slower or faster meanwhile: the run's mean service time in percent of that
measured before, and the error of a prediction from the run's own service times. Real servers are ComfyUI on CPU, with
one thread each.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import functools
import itertools
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_comfyload.capacity.fleet import Demand, Fleet
from pytest_comfyload.capacity.simulation import simulate
from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.launch import ComfyProcess
from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.metrics.arrival_trace import arrival_line, header_line
from pytest_comfyload.metrics.intervals import Interval, percentile
from pytest_comfyload.metrics.load_plan import Service
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.service_times import services_of
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.scenario.executors import RecordedArrivals
from pytest_comfyload.scenario.scenario import Scenario
from tests.real_comfyui import build

__all__ = ["Plan", "Prediction", "measured_services", "planned_and_sent", "servers_of"]

RHOS = (0.3, 0.5, 0.7)
MEASURED, USERS_PER_SERVER = 120, 2
SIMULATIONS = 200
# Largest errors in percent: of all rows but one, and of all rows.
BOUNDS = {"real": (15, 25), "simulators": (5, 5)}
# Simulated time runs twenty times as fast, so on a busy machine the client's overhead can be as long as a wait.
JUDGED = {"real": "total", "simulators": "server"}
STATISTICS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "mean": statistics.fmean,
    "p95": functools.partial(percentile, q=95),
}
# A prompt takes about a third of a second on a CPU with one thread.
TINY: dict[str, Any] = {
    "CheckpointLoaderSimple.ckpt_name": "tiny_sd15.safetensors",
    "EmptyLatentImage.width": 64,
    "EmptyLatentImage.height": 64,
    "KSampler.steps": 2,
}
# A prompt takes ten seconds of a simulated GPU, which are half a second of real time.
TIME_SCALE = 20.0
SIMULATED = {"KSampler.steps": 200}


@dataclass(frozen=True, slots=True)
class Plan:
    """Servers, the inputs of the prompts that are sent to them, and a folder for the files of the runs."""

    servers: tuple[ServerAddress, ...]
    inputs: Mapping[str, Any]
    folder: Path

    def run(self, title: str, **load: Any) -> LoadResult:
        scenario = Scenario.build_in(
            self.folder, "txt2img", inputs=self.inputs, timeout="10m", max_send_lag="1s", balance="least_queue", **load
        )
        return run_load(LoadRun(scenario, self.servers, title, self.folder, self.folder))


@dataclass(frozen=True, slots=True)
class Prediction:
    """A statistic of one schedule in seconds: predicted, its 90 % interval, and measured.

    time: `total`, or `server` for the part of it that the server sees: waiting and generation.
    services: mean service time of the run ÷ that of the services that the prediction is based on.
    explained: prediction from the run's own services.
    """

    time: str
    statistic: str
    predicted: float
    interval: Interval
    measured: float
    services: float
    explained: float

    @property
    def error(self) -> float:
        """By how many percent the prediction is above the measurement."""
        return 100 * (self.predicted / self.measured - 1)

    def __str__(self) -> str:
        figures = f"{self.predicted:.3f} ({self.interval.lower:.3f}-{self.interval.upper:.3f})"
        explained = 100 * (self.explained / self.measured - 1)
        return (
            f"{self.time:<8}{self.statistic:<6}{figures:<24}{self.measured:>8.3f}{self.error:>+8.1f} %"
            f"{100 * self.services:>8.1f} %{explained:>+8.1f} %"
        )


def measured_services(plan: Plan, prompts: int = MEASURED) -> Sequence[Service]:
    """Return the service times of prompts, measured while each server has another one waiting."""
    load = plan.run("services", users=USERS_PER_SERVER * len(plan.servers), shared_iterations=prompts, warmup=2)
    return services_of([load.measured])


def planned_and_sent(plan: Plan, services: Sequence[Service], rho: float, prompts: int, seed: int) -> list[Prediction]:
    """Predict a schedule, send it, and compare the mean and the 95th percentile."""
    rng = random.Random(seed)
    rate = rho * len(plan.servers) / _occupied(services)
    drawn = list(itertools.accumulate(rng.expovariate(rate) for _ in range(prompts)))
    start = datetime.datetime.now(datetime.UTC)
    lines = [header_line(start, drawn[-1] + 1), *(arrival_line(at, "txt2img") for at in drawn)]
    (plan.folder / "schedule.jsonl").write_text("".join(lines))
    schedule: dict[str, Any] = {"trace": "schedule.jsonl", "warmup": 0, "seed": seed}
    executor = Scenario.build_in(plan.folder, "txt2img", **schedule).executor
    assert isinstance(executor, RecordedArrivals)
    servers = len(plan.servers)
    redrawn = [_times(executor.times, rng.choices(services, k=prompts), servers) for _ in range(SIMULATIONS)]
    load = plan.run(f"rho {rho:g}", **schedule)
    outcomes = sorted(load.outcomes, key=lambda outcome: outcome.intended)
    own = services_of([outcomes])
    if load.invalid_because or len(own) != prompts:
        raise SystemExit(f"{len(own)} of {prompts} prompts have times: {load.invalid_because or 'others failed'}")
    measured = {
        "total": [each.total_time or math.nan for each in outcomes],
        "server": [(each.queue_time or 0.0) + (each.generation_time or math.nan) for each in outcomes],
    }
    explained, slower = _times(executor.times, own, servers), _occupied(own) / _occupied(services)
    return [
        Prediction(
            time,
            name,
            statistics.median(figure(each[time]) for each in redrawn),
            Interval(*(percentile([figure(each[time]) for each in redrawn], q) for q in (5, 95))),
            figure(measured[time]),
            slower,
            figure(explained[time]),
        )
        for time, (name, figure) in itertools.product(measured, STATISTICS.items())
    ]


def _occupied(services: Sequence[Service]) -> float:
    return statistics.fmean(service.occupied for service in services)


def _times(times: Sequence[float], services: Sequence[Service], servers: int) -> dict[str, list[float]]:
    """Return the total times of one simulation of the schedule, and the part that the server sees."""
    ran = simulate(Demand(times, [each.occupied for each in services]), Fleet(servers, dispatch="least_queue"))
    seen = [wait + each.generation for wait, each in zip(ran.waits, services, strict=True)]
    return {"total": [time + each.outside for time, each in zip(seen, services, strict=True)], "server": seen}


@contextlib.contextmanager
def servers_of(kind: str, folder: Path, time_scale: float = TIME_SCALE) -> Iterator[Plan]:
    """Run two servers of a kind; `time_scale` applies to simulators."""
    with contextlib.ExitStack() as stack:
        if kind == "real":
            install = build.install()
            install = dataclasses.replace(install, env={**install.env, "OMP_NUM_THREADS": "1"})
            bases = [build.new_base_directory(folder / f"base{k}", build.models(install.python)) for k in range(2)]
            processes = [ComfyProcess(install, base, log=base.with_suffix(".log")) for base in bases]
            urls = [stack.enter_context(process).url for process in processes]
        else:
            urls = [stack.enter_context(SimulatorProcess(time_scale=time_scale, seed=k)).url for k in range(2)]
        addresses = tuple(ServerAddress.parse(url) for url in urls)
        yield Plan(addresses, TINY if kind == "real" else SIMULATED, folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", choices=tuple(BOUNDS), help="which (default: both kinds)")
    parser.add_argument("--prompts", type=int, default=300, help="of each schedule (default: 300)")
    parser.add_argument("--rhos", type=float, nargs="+", default=RHOS, help="utilisations (default: 0.3 0.5 0.7)")
    chosen = parser.parse_args()
    kinds = [chosen.servers] if chosen.servers else list(BOUNDS)
    return max(_against_measurement(kind, chosen.prompts, chosen.rhos) for kind in kinds)


def _against_measurement(kind: str, prompts: int, rhos: Sequence[float]) -> int:
    """Print the table of a kind of server, and return 1 if the errors exceed their bounds."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, servers_of(kind, Path(folder)) as plan:
        head = f"{'measured':>8}{'error':>10}{'services':>10}{'own':>10}"
        head = f"{'rho':<6}{'mean service':<14}{'time':<14}{'predicted, s':<24}{head}"
        print(f"{kind}, {prompts} prompts a row\n{head}", flush=True)
        errors = []
        for number, rho in enumerate(rhos):
            services = measured_services(plan)
            rows = planned_and_sent(plan, services, rho, prompts, seed=number + 1)
            print("\n".join(f"{rho:<6g}{_occupied(services):<14.3f}{row}" for row in rows), flush=True)
            errors.append(max(abs(row.error) for row in rows if row.time == JUDGED[kind]))
    most, all_most = BOUNDS[kind]
    within = sum(error <= most for error in errors)
    print(f"{within} of {len(errors)} within {most} %, worst {max(errors):.1f} %; {time.monotonic() - begin:.0f} s\n")
    return int(within < len(errors) - 1 or max(errors) > all_most)


if __name__ == "__main__":
    sys.exit(main())
