"""How costs grow with the work: of judging and storing a load with its prompts, of a history with its runs.

    python -m tests.benchmarks.bench_growth [--prompts 1000] [--runs 20] [--kind open|closed]

runs each step with this much work, ten times and a hundred times as much, and prints the CPU seconds and the exponent,
the slope in a log-log plot: 1 is linear. The exponent is that of the last two points, because fixed costs weigh most in
the first.
"""

from __future__ import annotations

import argparse
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from pytest_comfyload.history.provenance import Provenance
from pytest_comfyload.history.record import record_of
from pytest_comfyload.history.record_file import decode, encode
from pytest_comfyload.history.spool import Spool, read_end
from pytest_comfyload.history.store import Store
from pytest_comfyload.metrics.assessment import judge
from pytest_comfyload.result.load_result import LoadResult
from tests.benchmarks.histories import record
from tests.benchmarks.made_loads import load_of

__all__ = ["Growth", "growth_of_history", "growth_of_judging"]

T = TypeVar("T")

FACTORS = (1, 10, 100)
COMMAND = "import sys; from pytest_comfyload.cli import main; sys.argv = ['comfyload', *sys.argv[1:]]; main()"


class Growth(NamedTuple):
    """CPU seconds of a step at 1, 10 and 100 times `work`, which is counted in `unit`."""

    step: str
    unit: str
    work: int
    seconds: tuple[float, ...]

    @property
    def exponent(self) -> float:
        """Slope in log-log from 10 to 100 times the work."""
        before, after = self.seconds[-2:]
        return math.log10(after / before) if before > 0 else math.nan

    def __str__(self) -> str:
        figures = "".join(f"{seconds:>10.3f}" for seconds in self.seconds)
        return f"{self.step:<34}{self.work:>8} {self.unit:<8}{figures}{self.exponent:>10.2f}"


def growth_of_judging(prompts: int, kind: str = "open") -> list[Growth]:
    """Measure the steps after loads of `prompts` prompts, and of 10 and 100 times as many."""
    return _growth("prompts", prompts, lambda count: _judged(count, kind))


def growth_of_history(runs: int) -> list[Growth]:
    """Measure the steps in stores with `runs` runs of one test, and 10 and 100 times as many, each of a new commit."""
    return _growth("runs", runs, _looked_up)


def _growth(unit: str, work: int, steps: Callable[[int], Iterator[tuple[str, float]]]) -> list[Growth]:
    measured = [dict(steps(work * factor)) for factor in FACTORS]
    return [Growth(step, unit, work, tuple(each[step] for each in measured)) for step in measured[0]]


def _judged(prompts: int, kind: str) -> Iterator[tuple[str, float]]:
    made = load_of(prompts, kind)
    facts, outcomes = made.facts, made.all_outcomes
    seconds, load = _timed(lambda: LoadResult(facts, outcomes))
    yield f"judging total_time.p95 ({kind} load)", seconds + _timed(lambda: judge(load.total_time.p95, "<", 60))[0]
    yield "figures, to_dict", _timed(load.to_dict)[0]
    seconds, kept = _timed(lambda: record_of(LoadResult(facts, outcomes), Provenance()))
    yield "record of the run", seconds
    seconds, content = _timed(lambda: encode(kept))
    yield "writing the run", seconds
    yield "reading the run", _timed(lambda: decode(content))[0]
    with tempfile.TemporaryDirectory() as folder, Spool(Path(folder), "run", {"facts": facts}) as spool:
        yield "spooling", _timed(lambda: deque(map(spool.append, outcomes), maxlen=0))[0]
        spool.end(load)
        yield "reading the spool", _timed(lambda: read_end(spool.path))[0]


def _looked_up(runs: int) -> Iterator[tuple[str, float]]:
    records = [record(number) for number in range(runs)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Store.open(folder / "store")
        yield "storing", _timed(lambda: [store.add(each) for each in records])[0]
        yield "first list, which makes the index", _timed(store.runs)[0]
        yield "next list", _timed(Store.open(folder / "store").runs)[0]
        yield "comparing the last two", _of_command(folder, "compare", "latest~1", "latest", "--store", "store")
        yield "report", _of_command(folder, "report", "--store", "store", "--output", "site")


def _of_command(folder: Path, *arguments: str) -> float:
    """Return the CPU seconds of a command in a process of its own."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", COMMAND, *arguments], cwd=folder, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    begin = time.process_time()
    done = work()
    return time.process_time() - begin, done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=1_000, help="of the smallest load (default: 1,000)")
    parser.add_argument("--runs", type=int, default=20, help="of the smallest history (default: 20; 0: none)")
    parser.add_argument("--kind", choices=("open", "closed"), default="open", help="how load arrives (default: open)")
    chosen = parser.parse_args()
    print(f"{'CPU seconds':<34}{'work':>16}  {'×1':>8}{'×10':>10}{'×100':>10}{'exponent':>10}")
    rows = growth_of_judging(chosen.prompts, chosen.kind) if chosen.prompts else []
    for row in rows + (growth_of_history(chosen.runs) if chosen.runs else []):
        print(row)


if __name__ == "__main__":
    main()
