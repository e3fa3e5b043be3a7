"""Fault storms: a random load on simulators with random faults, all drawn from one printed seed.

`python -m tests.hostile.storms --storms 50 [--seed N]` runs 50 storms, and prints the figures of each and a summary.
With `--seed`, the seeds are N, N+1, …; without it, the first one is random.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.errors import ComfyloadError
from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.scenario.scenario import Scenario
from pytest_comfyload.simulator.faults import FAULTS, Kind
from tests.contract.loads import probe

__all__ = ["Storm", "Weathered", "weather"]

TIME_SCALE = 20.0
# Bytes in addition to what the process uses after all imports.
MOST_MEMORY = 512 << 20
# Real seconds that each prompt may take beyond its timeouts, for waiting for a server that is down, the final polls and
# the removal; and those for the start, for cleaning up the servers, and for a busy machine.
PER_PROMPT, AROUND = 12.0, 90.0


@dataclass(frozen=True)
class Storm:
    """What is drawn from a seed: the faults of each server, and the load as arguments of `load_scenario`."""

    seed: int
    faults: tuple[Mapping[str, float], ...]
    load: Mapping[str, Any]
    prompts_in_a_row: int

    @classmethod
    def of(cls, seed: int) -> Storm:
        rng = random.Random(seed)
        share = rng.uniform(0.05, 0.4)
        faults = tuple(_faults(rng, share) for _ in range(rng.choice((1, 1, 2))))
        shape, in_a_row = _shape(rng)
        load = {
            **shape,
            "warmup": rng.choice((0, 0, 1)),
            "timeout": f"{rng.uniform(20, 120):.0f}s",
            "fetch": rng.random() < 0.8,
            "balance": rng.choice(("least_queue", "round_robin", "sticky")),
            "max_send_lag": "30s",
            "seed": seed,
        }
        if rng.random() < 0.3:
            load["queue_timeout"] = f"{rng.uniform(5, 60):.0f}s"
        if rng.random() < 0.3:
            load["drain"] = f"{rng.uniform(1, 60):.0f}s"
        if rng.random() < 0.2:
            load["abort_on_failure_rate"] = rng.uniform(5, 80)
        return cls(seed, faults, load, in_a_row + load["warmup"])

    @property
    def most_seconds(self) -> float:
        """Real seconds within which the storm must finish."""
        scenario = Scenario.build(probe(), **self.load)
        limit = scenario.parts[0][1].timeout + float(str(self.load.get("queue_timeout", "0s"))[:-1])
        length = float(str(self.load.get("duration", "0s"))[:-1])
        return AROUND + length / TIME_SCALE + self.prompts_in_a_row * (limit / TIME_SCALE + PER_PROMPT)


def _faults(rng: random.Random, share: float) -> dict[str, float]:
    drawn: dict[Kind, Callable[[], float]] = {
        Kind.SWITCH: lambda: True,
        Kind.PROBABILITY: rng.random,
        Kind.COUNT: lambda: rng.randint(1, 30),
        Kind.SECONDS: lambda: rng.uniform(0, 10),
        Kind.STEP: lambda: rng.uniform(-10, 10),
    }
    # Behind a login, no load starts; another test covers this.
    return {name: drawn[fault.kind]() for name, fault in FAULTS.items() if name != "login" and rng.random() < share}


def _shape(rng: random.Random) -> tuple[dict[str, Any], int]:
    """Return the arguments of a load and the maximum number of prompts that a user sends one after the other."""
    users, iterations, seconds = rng.randint(1, 8), rng.randint(1, 5), f"{rng.uniform(10, 60):.0f}s"
    shapes: Sequence[tuple[dict[str, Any], int]] = (
        ({"users": users, "iterations": iterations}, iterations),
        ({"users": users, "shared_iterations": users * iterations}, users * iterations),
        ({"users": users, "duration": seconds, "think_time": rng.uniform(0, 3)}, 1),
        ({"burst": rng.randint(2, 30)}, 1),
        (
            {
                "rate": f"{rng.randint(10, 120)}/min",
                "duration": seconds,
                "arrival": rng.choice(("constant", "poisson")),
            },
            1,
        ),
    )
    return rng.choice(shapes)


@dataclass
class Weathered:
    """The result of a storm; `faults` are violations."""

    seed: int
    seconds: float = 0.0
    memory: float = 0.0
    end: str = ""
    by_status: Mapping[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def weather(seed: int) -> Weathered:
    """Run one storm in a process of its own."""
    most, begun = Storm.of(seed).most_seconds, time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__ if __name__ != "__main__" else "tests.hostile.storms", "--one", f"{seed}"],
            capture_output=True,
            text=True,
            timeout=most,
        )
    except subprocess.TimeoutExpired:
        return Weathered(seed, time.monotonic() - begun, faults=[f"took more than {most:.0f} s"])
    if done.returncode or done.stderr:
        return Weathered(seed, time.monotonic() - begun, faults=[done.stderr[-3000:] or f"exit {done.returncode}"])
    return Weathered(**json.loads(done.stdout.splitlines()[-1]))


def _weather_here(seed: int) -> Weathered:
    storm, result = Storm.of(seed), Weathered(seed)
    import filelock  # noqa: F401
    import numpy  # noqa: F401

    before = _kilobytes("VmRSS")
    most = 1024 * _kilobytes("VmSize") + MOST_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        servers = [_simulator(stack, seed, faults) for faults in storm.faults]
        begun = time.monotonic()
        try:
            scenario = Scenario.build(probe(1.0), **storm.load)
            load = run_load(LoadRun(scenario, tuple(servers), "storm", Path(folder), Path(folder)))
            result.end, result.by_status = load.state, {str(s): n for s, n in load.accounting.by_status.items()}
            result.faults = _broken(load)
        except ComfyloadError as error:
            result.end = f"{type(error).__name__}: {error}"
        result.seconds = time.monotonic() - begun
    result.memory = 1024 * (_kilobytes("VmHWM") - before)
    return result


def _simulator(stack: ExitStack, seed: int, faults: Mapping[str, float]) -> ServerAddress:
    process = SimulatorProcess(time_scale=TIME_SCALE, probe_nodes=True, seed=seed, faults=faults)
    return ServerAddress.parse(stack.enter_context(process).url)


def _broken(load: LoadResult) -> list[str]:
    """Return the identities that are violated."""
    count, ids = load.accounting, [outcome.prompt_id for outcome in load.outcomes]
    measured = [outcome for outcome in load.outcomes if not outcome.warmup]
    claims = {
        f"intended {count.intended} = submitted {count.submitted} + dropped {load.dropped}": count.intended
        == count.submitted + int(load.dropped),
        f"submitted {count.submitted} = sum of {dict(count.by_status)}": count.submitted
        == sum(count.by_status.values())
        == len(measured),
        "each outcome has a prompt id of its own": len(set(ids)) == len(ids),
        "each failure says why": all(outcome.error for outcome in load.outcomes if not outcome.succeeded),
        "times are not negative": all(_in_order(outcome.timeline) for outcome in load.outcomes),
    }
    return [claim for claim, holds in claims.items() if not holds]


def _in_order(line: Any) -> bool:
    phases = ("send_lag", "submit_time", "queue_time", "generation_time", "delivery_time", "fetch_time")
    return line is None or all((getattr(line, phase) or 0.0) >= 0 for phase in phases)


def _kilobytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storms", type=int, default=50)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--one", type=int, default=None, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.one is not None:
        print(json.dumps(vars(_weather_here(chosen.one))))
        return 0
    first = secrets.randbelow(10**9) if chosen.seed is None else chosen.seed
    results = []
    for seed in range(first, first + chosen.storms):
        result = weather(seed)
        results.append(result)
        verdict = "; ".join(result.faults) or "survived"
        figures = f"{result.seconds:5.1f} s {result.memory / 2**20:4.0f} MiB {result.end} {dict(result.by_status)}"
        print(f"seed {seed}: {figures}: {verdict}", flush=True)
    survived = sum(not result.faults for result in results)
    worst = max(result.seconds for result in results), max(result.memory for result in results) / 2**20
    print(f"{len(results)} storms, {survived} survived; at worst {worst[0]:.1f} s and {worst[1]:.0f} MiB")
    return 0 if survived == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
