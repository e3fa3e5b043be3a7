"""The live view of one load at the terminal: the run's thread reports, the thread that waits for it draws."""

from __future__ import annotations

from pytest_comfyload.plugin.screen import TerminalWriter
from pytest_comfyload.report.live import view_lines
from pytest_comfyload.run.observer import ProgressPrinter

__all__ = ["LiveView"]


class LiveView(ProgressPrinter):
    """Redraws a few lines where the terminal allows it; elsewhere it prints lines of progress."""

    def __init__(self, screen: TerminalWriter, title: str, scenario: str, place: tuple[int, int] = (1, 1)) -> None:
        super().__init__(title, scenario, place, lambda line: screen.write([line]))
        self._screen = screen

    def tick(self) -> None:
        if not self._screen.has_views:
            super().tick()
            return
        self.write_lines()
        if (progress := self.progress) is not None:
            self._screen.draw(
                lambda width, color, encoding: view_lines(
                    self.title, self.scenario, progress, color=color, width=width, encoding=encoding
                )
            )

    def close(self) -> None:
        """Remove the view; lines stay."""
        self.write_lines()
        self._screen.release()
