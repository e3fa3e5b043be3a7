"""Output to the terminal that pytest controls: it bypasses pytest's capture and preserves pytest's own line."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

__all__ = ["TerminalWriter"]

# Renders for a screen with this number of columns, with or without colour, in this encoding.
Render = Callable[[int, bool, str], Sequence[str]]


class TerminalWriter:
    """Writer for the thread that runs the tests; silent without a terminal reporter, with -q and in xdist workers.

    While a test runs, a view is shown below the last line, and the cursor stays on that line, so that whatever is
    written next continues where pytest left off.
    """

    # Pytest's own marker for a line that contains something other than it expects.
    _BROKEN = -2

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._test: tuple[str, tuple[str, int | None, str]] | None = None
        self._drawn = False

    @property
    def verbosity(self) -> int:
        """Verbosity as pytest counts it: -1 with -q, 1 with -v."""
        return self._config.get_verbosity()

    @property
    def silent(self) -> bool:
        return self._reporter is None or self.verbosity < 0 or hasattr(self._config, "workerinput")

    @property
    def has_views(self) -> bool:
        """Whether the output is a terminal without log lines or output of tests in between, so that views work."""
        if self.silent or self._capture is None or self._config.getoption("capture") == "no":
            return False
        logging: Any = self._config.pluginmanager.get_plugin("logging-plugin")
        watched = os.environ.get("CI", "").lower() in ("", "0", "false") and os.environ.get("TERM") != "dumb"
        # A bool in pytest 8.3; in later versions it can also be called.
        return bool(self._reporter.isatty) and watched and not (logging and logging._log_cli_enabled())

    def write(self, lines: Sequence[str]) -> None:
        """Write lines that stay; they interrupt pytest's own line until `release`."""
        if self.silent or not lines:
            return
        from pytest_comfyload.report.table import rendered

        with self._uncaptured() as reporter:
            self._erase(reporter)
            if reporter._tw.width_of_current_line:
                reporter.ensure_newline()
            # Without the last newline: whatever pytest writes next begins with one.
            reporter.write("\n".join(rendered(lines, color=False, width=reporter._tw.fullwidth)), flush=True)
            reporter.currentfspath = self._BROKEN

    def say(self, line: str) -> None:
        self.write([line])

    def draw(self, render: Render) -> None:
        """Draw a view in place of the last one."""
        from pytest_comfyload.report.live import drawn_below

        with self._uncaptured() as reporter:
            columns, rows = shutil.get_terminal_size()
            lines = render(columns - 1, reporter.hasmarkup, getattr(sys.__stdout__, "encoding", None) or "utf-8")
            column = reporter._tw.width_of_current_line % columns
            # Set before drawing: Ctrl-C may come while the view is being written.
            self._drawn = True
            reporter.write_raw(drawn_below(lines[: rows - 1], column), flush=True)

    def release(self) -> None:
        """Erase the view, and begin pytest's line again if lines interrupted it."""
        if self.silent:
            return
        with self._uncaptured() as reporter:
            self._erase(reporter)
            if reporter.currentfspath == self._BROKEN and self._test is not None:
                self._resume(reporter, *self._test)

    def _resume(self, reporter: Any, nodeid: str, location: tuple[str, int | None, str]) -> None:
        """Let pytest's progress letters continue on a new line; the file's name is already shown above."""
        if self.verbosity > 0:
            reporter.currentfspath = None
            reporter.pytest_runtest_logstart(nodeid, location)
        else:
            reporter.ensure_newline()
            reporter.currentfspath = self._config.rootpath / nodeid.split("::")[0]

    def _erase(self, reporter: Any) -> None:
        from pytest_comfyload.report.live import ERASE

        if self._drawn:
            reporter.write_raw(ERASE, flush=True)
            self._drawn = False

    @contextlib.contextmanager
    def _uncaptured(self) -> Iterator[Any]:
        capture = self._capture
        with capture.global_and_fixture_disabled() if capture is not None else contextlib.nullcontext():
            yield self._reporter

    @property
    def _reporter(self) -> Any:
        return self._config.pluginmanager.get_plugin("terminalreporter")

    @property
    def _capture(self) -> Any:
        return self._config.pluginmanager.get_plugin("capturemanager")

    # --- hooks: which test pytest's line is about ---

    def pytest_runtest_logstart(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
        self._test = (nodeid, location)

    def pytest_runtest_logfinish(self) -> None:
        self._test = None
