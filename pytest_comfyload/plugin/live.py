"""One load as the person at the terminal sees it: the run's thread tells, the thread that waits for it shows."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from pytest_comfyload.plugin.screen import TerminalWriter
from pytest_comfyload.report.live import headline, plain_line, view_lines

if TYPE_CHECKING:
    from pytest_comfyload.engine.progress import LoadProgress

__all__ = ["LiveView"]

# Real seconds between two lines where there is no view.
LINE_PERIOD = 10.0


class LiveView:
    """`say` and `tell` may be called in any thread, `tick` and `close` in the one that runs the tests."""

    def __init__(self, screen: TerminalWriter, title: str, scenario: str, place: tuple[int, int] = (1, 1)) -> None:
        number, runs = place
        self._screen = screen
        self._title = title if runs == 1 else f"{title}, run {number} of {runs}"
        # Of runs that are all alike, more than one of each kind would say nothing new.
        self._announced = number > 2
        self._all = runs if number == 1 else 1
        self._scenario = scenario
        self._lines: deque[str] = deque()
        self._progress: LoadProgress | None = None
        self._next_line = time.monotonic() + LINE_PERIOD

    def say(self, line: str) -> None:
        self._lines.append(line)

    def tell(self, progress: LoadProgress) -> None:
        # The headline waits until it can say how long the load will take, at the latest for the window.
        if not self._announced and (progress.expected is not None or not progress.warming_up):
            self._announced = True
            self.say(headline(self._title, self._scenario, progress, self._all))
        self._progress = progress

    def tick(self) -> None:
        """Show what there is to show."""
        progress = self._progress
        if progress is not None and not self._screen.has_views and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_PERIOD
            self.say(plain_line(self._title, progress))
        self._write()
        if progress is not None and self._screen.has_views:
            self._screen.draw(
                lambda width, color, encoding: view_lines(
                    self._title, self._scenario, progress, color=color, width=width, encoding=encoding
                )
            )

    def close(self) -> None:
        """The view vanishes; lines stay."""
        self._write()
        self._screen.release()

    def _write(self) -> None:
        self._screen.write([self._lines.popleft() for _ in range(len(self._lines))])
