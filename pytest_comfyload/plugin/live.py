"""Live view of one load in the terminal: the run's thread reports, and the thread that waits for it draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pytest_comfyload.plugin.screen import TerminalWriter
from pytest_comfyload.plugin.session_servers import SessionServers
from pytest_comfyload.report.live import view_lines
from pytest_comfyload.result.outcome import Outcome
from pytest_comfyload.run.observer import ProgressPrinter
from pytest_comfyload.run.target import Target

__all__ = ["LiveView"]


class LiveView(ProgressPrinter):
    """Observer that redraws a few lines if the terminal allows it, and otherwise prints lines of progress."""

    def __init__(
        self,
        screen: TerminalWriter,
        servers: SessionServers,
        title: str,
        scenario: str,
        place: tuple[int, int],
        begins: Callable[[Path], None],
        stopped: Callable[[], bool],
        publish: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        """`begins` receives the run's spool, `publish` each outcome; `stopped` returns whether the load should stop."""
        super().__init__(title, scenario, place, screen.say)
        self._screen = screen
        self._servers = servers
        self._begins = begins
        self._stopped = stopped
        self._publish = publish

    def on_target(self, target: Target) -> None:
        self._servers.greet(target, self.say)

    def on_gpus(self, lines: Sequence[str]) -> None:
        self._servers.name_gpus(lines, self.say)

    def on_spool(self, path: Path) -> None:
        self._begins(path)

    def on_outcome(self, outcome: Outcome) -> None:
        self._publish(outcome)

    def stopped(self) -> bool:
        return self._stopped()

    def tick(self) -> None:
        while self._servers.news:
            self.say(self._servers.news.popleft())
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
        """Remove the view; printed lines stay."""
        self.write_lines()
        self._screen.release()
