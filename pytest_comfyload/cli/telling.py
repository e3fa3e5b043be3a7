"""What a command says of a load while it runs: a headline, then a line every ten seconds."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_comfyload.report.live import headline, plain_line

if TYPE_CHECKING:
    from pytest_comfyload.engine.progress import Progress

__all__ = ["Telling"]

# Real seconds between two lines.
LINE_PERIOD = 10.0


class Telling:
    """`say` and `tell` may be called in any thread, `tick` in the one that writes.

    `place` is which run it is of so many that are alike, of which one of each kind is announced.
    """

    def __init__(self, title: str, scenario: str, place: tuple[int, int], write: Callable[[str], None]) -> None:
        number, runs = place
        self._title = f"{title}, run {number} of {runs}"
        self._scenario = scenario
        self._announced = number > 2
        self._all = runs if number == 1 else 1
        self._write = write
        self._lines: deque[str] = deque()
        self._progress: Progress | None = None
        self._next_line = time.monotonic() + LINE_PERIOD

    def say(self, line: str) -> None:
        self._lines.append(line)

    def tell(self, progress: Progress) -> None:
        if not self._announced and (progress.expected is not None or not progress.warming_up):
            self._announced = True
            self.say(headline(self._title, self._scenario, progress, self._all))
        self._progress = progress

    def tick(self) -> None:
        if self._progress is not None and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_PERIOD
            self.say(plain_line(self._title, self._progress))
        while self._lines:
            self._write(self._lines.popleft())
