"""Pytest on a pseudo-terminal, and the screen as a person would see it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.plugin.suite import ALONE

__all__ = ["Screen", "run_on_terminal"]

COLUMNS = 100

_PIECE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")
# Everything except a trailing escape sequence or character that is still incomplete.
_WHOLE = re.compile(
    rb"(?:\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x1a\x1c-\x7f]|[\xc0-\xff][\x80-\xbf]+(?=[^\x80-\xbf]))*", re.DOTALL
)


class Screen:
    """The parts of a terminal that are needed: text, line breaks, `A` up, `G` to a column, `J` erase; no colours."""

    def __init__(self, height: int) -> None:
        self.rows = [""]
        self._height = height
        self._row = self._column = self._top = 0

    @property
    def text(self) -> str:
        return "\n".join(row.rstrip() for row in self.rows)

    def feed(self, text: str) -> None:
        for piece in _PIECE.finditer(text):
            argument, command, control, plain = piece.groups()
            if command:
                self._obey(command, argument)
            elif control == "\r":
                self._column = 0
            elif control == "\n":
                self._down()
            else:
                for character in plain:
                    self._put(character)

    def _obey(self, command: str, argument: str) -> None:
        assert command in "AGJm", f"ESC [ {argument} {command}"
        if command == "A":
            # Lines that have scrolled off the screen are out of reach.
            self._row = max(self._top, self._row - int(argument))
        elif command == "G":
            self._column = int(argument) - 1
        elif command == "J":
            self.rows[self._row :] = [self.rows[self._row][: self._column]]

    def _put(self, character: str) -> None:
        if self._column == COLUMNS:
            self._column = 0
            self._down()
        row = self.rows[self._row].ljust(self._column)
        self.rows[self._row] = row[: self._column] + character + row[self._column + 1 :]
        self._column += 1

    def _down(self) -> None:
        self._row += 1
        self._top = max(self._top, self._row + 1 - self._height)
        self.rows += [""] * (self._row + 1 - len(self.rows))


def run_on_terminal(
    folder: Path,
    *arguments: str,
    rows: int = 24,
    until: Callable[[Screen], bool] = lambda screen: False,
    then: Callable[[subprocess.Popen[bytes]], None] = lambda child: None,
    timeout: float = 60.0,
) -> tuple[Screen, list[str]]:
    """Return the final screen and each distinct one before it; `then` is called once, when `until` first applies."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, COLUMNS, 0, 0))
    unwanted = ("CI", "COLUMNS", "LINES", "NO_COLOR", "PY_COLORS", "FORCE_COLOR", "PYTEST_ADDOPTS")
    environ = {name: value for name, value in os.environ.items() if name not in unwanted}
    child = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *ALONE, *arguments],
        cwd=folder, env={**environ, "TERM": "xterm-256color"}, stdin=slave, stdout=slave, stderr=slave,
        start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    screen, seen, pending = Screen(rows), [""], True
    try:
        for chunk in _read(master, time.monotonic() + timeout):
            screen.feed(chunk)
            seen += [screen.text] if screen.text != seen[-1] else []
            if pending and until(screen):
                pending = False
                then(child)
    finally:
        child.kill()
        child.wait()
        os.close(master)
    return screen, seen


def _read(master: int, deadline: float) -> Iterator[str]:
    """Yield the output in whole escape sequences and characters."""
    rest = b""
    while select.select([master], [], [], max(0.0, deadline - time.monotonic()))[0]:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # the other side is closed
            chunk = b""
        if not chunk:
            return
        rest += chunk
        whole = _WHOLE.match(rest)
        assert whole is not None
        yield whole[0].decode()
        rest = rest[whole.end() :]
    raise AssertionError("pytest did not end")
