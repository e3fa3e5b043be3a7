"""Soak: very many prompts against a simulator of its own, and what each of them leaves behind in memory.

`python -m tests.benchmarks.soak --prompts 100000` runs one load as a user would: every output is fetched and decoded,
thumbnails are kept, each outcome is spooled, and the run is stored at the end. Twice a second, it samples the resident
memory, open files and threads of generator and simulator, and the generator's asyncio tasks. It prints the slope of the
memory of each in bytes per 1,000 prompts, with a 95 % interval, excluding the warm-up in which caches and histories
fill. `--loads 20` divides the prompts into 20 loads, none of which is kept: any growth is then a leak. Ctrl-C stops it
early and prints the figures so far.

The generator keeps one outcome for each prompt of a load. The size of an outcome is measured separately: the slope of
one load should equal it, and the slope over many loads should be zero. The simulator keeps 10,000 prompts in its
history.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.engine.progress import LoadProgress
from pytest_comfyload.history.provenance import Provenance
from pytest_comfyload.history.record import record_of
from pytest_comfyload.history.store import Store
from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.metrics.intervals import t_quantile
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.run.observer import RunObserver
from pytest_comfyload.scenario.distributions import uniform
from pytest_comfyload.scenario.scenario import Scenario

TINY = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "soak"}},
}
# Every prompt is executed, since hardly any two have the same color.
COLORS = {"EmptyImage.color": uniform(0, 2**24 - 1)}
# The first part fills everything that is bounded: the simulator keeps 10,000 prompts in its history and 5,000 images.
WARM_UP = 0.2
BLOCKS = 20
PERIOD = 0.5
SCALE = 200


class Sample(NamedTuple):
    """A sample after `prompts` prompts; memory is resident, in bytes, and pairs are of generator and simulator."""

    prompts: int
    generator: int
    simulator: int
    files: tuple[int, int]
    threads: tuple[int, int]
    tasks: int


class Slope(NamedTuple):
    """Bytes per 1,000 prompts, with the 95 % interval."""

    value: float
    lower: float
    upper: float

    def __str__(self) -> str:
        return f"{self.value:+,.0f} bytes per 1,000 prompts ({self.lower:+,.0f} to {self.upper:+,.0f})"


def slope_of(points: Sequence[tuple[float, float]]) -> Slope:
    """Return the drift of memory over (prompts, bytes), from the growth between successive ones of 20 blocks.

    Neighbouring samples of memory are far from independent, and so are the residuals of a straight line through them:
    its interval would be far too narrow. The increments between blocks are nearly independent, even if memory grows in
    steps.
    """
    begin, end = points[0][0], points[-1][0]
    size = (end - begin) / BLOCKS
    blocks: list[list[tuple[float, float]]] = [[] for _ in range(BLOCKS)]
    for prompts, value in points:
        blocks[min(BLOCKS - 1, int((prompts - begin) / size))].append((prompts, value))
    means = [(statistics.fmean(p for p, _ in block), statistics.fmean(v for _, v in block)) for block in blocks]
    growth = [1000 * (v - u) / (q - p) for (p, u), (q, v) in itertools.pairwise(means)]
    mean = statistics.fmean(growth)
    reach = t_quantile(0.975, len(growth) - 1) * statistics.stdev(growth) / len(growth) ** 0.5
    return Slope(mean, mean - reach, mean + reach)


def resident(pid: int | str) -> int:
    """Return the resident memory of a process in bytes."""
    return 1024 * _status(pid, "VmRSS")


def _status(pid: int | str, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _files(pid: int | str) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


@dataclass
class Watch(RunObserver):
    """Observer that samples both processes while loads run; `before` prompts ended in earlier loads."""

    simulator: int = 0
    begun: float = field(default_factory=time.monotonic)
    before: int = 0
    samples: list[Sample] = field(default_factory=list)
    _next: float = 0.0
    _told: float = 0.0

    def on_progress(self, progress: LoadProgress) -> None:
        """Take a sample when it is due, in the event loop of the load."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + PERIOD
        self.samples.append(
            Sample(
                self.before + progress.done,
                resident("self"),
                resident(self.simulator),
                (_files("self"), _files(self.simulator)),
                (_status("self", "Threads"), _status(self.simulator, "Threads")),
                len(asyncio.all_tasks()),
            )
        )
        if now - self._told > 30:
            self._told = now
            print(f"{now - self.begun:7.0f} s  {self.samples[-1]}", flush=True)


def run(prompts: int, loads: int, users: int, folder: Path, watch: Watch) -> None:
    """Run the loads, one after the other, and store each."""
    store = Store.open(folder / "store")
    with SimulatorProcess(time_scale=SCALE) as server:
        watch.simulator = server.pid
        for number in range(loads):
            scenario = Scenario.build(
                TINY,
                users=users,
                shared_iterations=prompts // loads,
                inputs=COLORS,
                seed=number,
                # In simulated time; no prompt may time out because the machine is busy.
                timeout="1000h",
                drain="1000h",
                max_send_lag="1h",
            )
            address = ServerAddress.parse(server.url)
            load = run_load(LoadRun(scenario, (address,), "soak", folder, folder, private=True, observer=watch))
            watch.before += len(load.outcomes)
            ends = {str(status): count for status, count in load.accounting.by_status.items()}
            errors = dict.fromkeys(str(each.error)[:200] for each in load.outcomes if each.error)
            print(f"load {number + 1}: {len(load.outcomes)} prompts: {ends}", *list(errors)[:5], sep="\n", flush=True)
            if loads == 1:
                _tell_outcomes(load.all_outcomes)
            name = store.add(record_of(load, Provenance()))
            size = (folder / "store" / "runs" / name).stat().st_size
            print(f"stored: {size / len(load.outcomes):.0f} bytes a prompt", flush=True)
            del load
            gc.collect()


def _tell_outcomes(outcomes: Sequence[object]) -> None:
    """Print the mean size of an outcome with everything that it refers to, from a sample of the outcomes."""
    sample = list(outcomes)[:: max(1, len(outcomes) // 1000)]
    seen: set[int] = set()
    total = sum(_size(outcome, seen) for outcome in sample)
    print(f"an outcome that is kept: {total / len(sample):,.0f} bytes in objects", flush=True)


def _size(value: object, seen: set[int]) -> int:
    """Return the bytes of a value and of what it refers to, counting each object once, but no classes or callables."""
    total, rest = 0, [value]
    while rest:
        each = rest.pop()
        if id(each) in seen or isinstance(each, type) or callable(each):
            continue
        seen.add(id(each))
        total += sys.getsizeof(each)
        rest += gc.get_referents(each)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=100_000, help="in all (default: 100,000)")
    parser.add_argument("--loads", type=int, default=1, help="so many loads one after the other (default: 1)")
    parser.add_argument("--users", type=int, default=20, help="of each load (default: 20)")
    chosen = parser.parse_args()
    watch = Watch()
    with tempfile.TemporaryDirectory(prefix="comfyload-soak-") as folder, contextlib.suppress(KeyboardInterrupt):
        run(chosen.prompts, chosen.loads, chosen.users, Path(folder), watch)
    seconds, ended = time.monotonic() - watch.begun, watch.samples[-1].prompts
    steady = [each for each in watch.samples if each.prompts > WARM_UP * ended]
    print(f"{ended} prompts in {seconds:.0f} s, {ended / seconds:.0f} a second; {len(steady)} samples")
    for name in ("generator", "simulator"):
        first, last = (getattr(each, name) / 1e6 for each in (steady[0], steady[-1]))
        slope = slope_of([(each.prompts, getattr(each, name)) for each in steady])
        print(f"{name}: {first:.1f} MB, then {last:.1f} MB: {slope}, 95 % interval")
    for name in ("files", "threads", "tasks"):
        values = [getattr(each, name) for each in steady]
        print(f"{name} (generator, simulator): first {values[0]}, last {values[-1]}, most {max(values)}")


if __name__ == "__main__":
    main()
