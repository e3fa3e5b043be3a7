"""Observers of a running load, and the progress lines that commands and pytest print."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from pytest_comfyload.engine.progress import LoadProgress
from pytest_comfyload.report.live import headline, plain_line
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.run.target import Target

__all__ = ["ProgressPrinter", "RunObserver"]

# Real seconds between two lines of progress.
LINE_PERIOD = 10.0


class RunObserver:
    """Base class for observers of a run. Its methods do nothing.

    `tick` and `stopped` are called twice a second in the thread that waits for the run, the others in the run's thread.
    """

    def on_target(self, target: Target) -> None:
        """Called when the servers have been inspected. Raising an error here prevents the run."""

    def on_gpus(self, lines: Sequence[str]) -> None:
        """Called with a line for each server that says where its GPUs are read."""

    def on_spool(self, path: Path) -> None:
        """Called when the run's spool has been created."""

    def on_outcome(self, outcome: Outcome) -> None:
        """Called when a prompt has finished."""

    def on_progress(self, progress: LoadProgress) -> None:
        """Called every 0.25 s."""

    def say(self, line: str) -> None:
        """Called with a line for the user."""

    def tick(self) -> None:
        """Called regularly; the place to print something."""

    def stopped(self) -> bool:
        """Return whether to interrupt the run."""
        return False


class ProgressPrinter(RunObserver):
    """A printer of progress: a headline, then a line every ten seconds.

    Args:
        title: The title of the run.
        scenario: The description of the scenario.
        place: The number of this run, and the number of runs. Only the first two, one of each side, get a headline.
        write: Called with each line by `tick`.
    """

    def __init__(self, title: str, scenario: str, place: tuple[int, int], write: Callable[[str], None]) -> None:
        number, runs = place
        self.title = title if runs == 1 else f"{title}, run {number} of {runs}"
        self._run = "" if runs == 1 else f"run {number} of {runs}: "
        self.scenario = scenario
        self.progress: LoadProgress | None = None
        self._announced = number > 2
        self._all = runs if number == 1 else 1
        self._write = write
        self._lines: deque[str] = deque()
        self._next_line = time.monotonic() + LINE_PERIOD

    def say(self, line: str) -> None:
        self._lines.append(line)

    def on_progress(self, progress: LoadProgress) -> None:
        # The headline waits until the duration of the load is known, or at the latest until the warm-up is over.
        if not self._announced and (progress.expected is not None or not progress.warming_up):
            self._announced = True
            self.say(headline(self.title, self.scenario, progress, self._all))
        self.progress = progress

    def tick(self) -> None:
        if self.progress is not None and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_PERIOD
            self.say(plain_line(self.progress, self._run))
        self.write_lines()

    def write_lines(self) -> None:
        while self._lines:
            self._write(self._lines.popleft())
