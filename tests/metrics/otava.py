"""Our change points compared with those of Apache Otava, on random histories with and without a step.

`python -m tests.metrics.otava [SERIES]` installs Otava, which pins its numpy, in an environment of its own in the
cache, and prints how often the two agree. By default Otava has neither a minimum number of runs on each side of a step
nor a minimum change of 5 %: it is called with that minimum change, and steps younger than five runs are left out.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import venv
from pathlib import Path

from pytest_comfyload.metrics.change_points import FEWEST, LEAST, change_points

__all__ = ["histories", "main", "otava_points"]

_REQUIREMENT = "apache-otava==0.8.0"
_THERE = """
import json, sys
from otava.analysis import compute_change_points
found = [compute_change_points(each, window_len=50, max_pvalue=0.001, min_magnitude={least})[0]
         for each in json.load(sys.stdin)]
print(json.dumps([[int(point.index) for point in points] for points in found]))
"""


def histories(count: int, seed: int = 7) -> list[list[float]]:
    """Return histories of 40 to 120 sessions with 2 % of noise; half of them have one step of 10 to 60 %."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        length = rng.randint(40, 120)
        at, step = rng.randint(10, length - 10), 1 + rng.uniform(0.1, 0.6)
        level = [step if number % 2 and k >= at else 1.0 for k in range(length)]
        made.append([each * rng.lognormvariate(0, 0.02) for each in level])
    return made


def otava_points(series: list[list[float]], python: Path) -> list[list[int]]:
    """Return the indices of Otava's change points in each series."""
    program = _THERE.format(least=LEAST)
    done = subprocess.run([python, "-c", program], input=json.dumps(series), capture_output=True, text=True, check=True)
    found: list[list[int]] = json.loads(done.stdout)
    return found


def _python() -> Path:
    folder = Path.home() / ".cache" / "pytest-comfyload" / "otava"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", _REQUIREMENT], check=True)
    return python


def main(count: int) -> None:
    series = histories(count)
    theirs = otava_points(series, _python())
    same = only_ours = only_theirs = 0
    for values, points in zip(series, theirs, strict=True):
        ours = {point.index for point in change_points(values)}
        settled = {index for index in points if FEWEST <= index <= len(values) - FEWEST}
        same += len(ours & settled)
        only_ours += len(ours - settled)
        only_theirs += len(settled - ours)
    print(f"{count} histories: {same} change points in both, {only_ours} only ours, {only_theirs} only Otava's")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
