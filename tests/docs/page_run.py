"""Runs a page block by block in a folder of its own, like a reader who copies everything and has two servers."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from tests.docs.blocks import ROOT, Block
from tests.history.repository import Repository

__all__ = ["PageRun", "environ_of", "is_printed"]

_PATIENCE = 120.0
# A shared machine makes a run invalid now and then, as it should: that is not the page's fault.
_NOT_JUDGED, _TRIES = re.compile("Not judged|the generator was|no measurement"), 3
# What the reader already has.
_PHOTO = "my_photo.png"


class PageRun:
    """A page that is being run.

    Args:
        folder: An empty folder, which becomes a git repository with one commit.
        addresses: What replaces the addresses that the pages name.
    """

    def __init__(self, folder: Path, addresses: Mapping[str, str]) -> None:
        self._folder = folder
        self._addresses = dict(addresses)
        self._environ = environ_of(folder)
        self._background: list[_BackgroundCommand] = []
        Image.new("RGB", (64, 64), "teal").save(folder / _PHOTO)
        (folder / ".gitignore").write_text(".comfyload/\n__pycache__/\n", encoding="utf-8")
        repository = Repository.begin(folder)
        repository.git("add", "-A")
        repository.git("commit", "-q", "-m", "begin")

    def do(self, block: Block) -> None:
        if "file" in block.options:
            with (self._folder / block.options["file"]).open("a", encoding="utf-8") as file:
                file.write(block.text)
        elif block.language == "console" and "static" not in block.options:
            self._commands(block)

    @contextmanager
    def reading(self) -> Iterator[PageRun]:
        try:
            yield self
        finally:
            for command in self._background:
                command.end()

    def _commands(self, block: Block) -> None:
        *others, last = block.commands()
        if "background" in block.options:
            self._start(last, block.options["background"])
            return
        for command, expected in others:
            self._run(command, expected, 0)
        self._run(*last, int(block.options.get("exit", 0)))

    def _run(self, command: str, expected: str, status: int) -> None:
        for _ in range(_TRIES):
            done = self._finished(command)
            right = done.returncode == status and is_printed(expected, done.stdout)
            if right or not _NOT_JUDGED.search(done.stdout):
                break
        assert done.returncode == status, f"$ {command}\n{done.stdout}\nexit status {done.returncode}, not {status}"
        assert right, f"$ {command}\nprints\n{done.stdout}\nand not\n{expected}"

    def _finished(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", self._with_addresses(command)], cwd=self._folder, env=self._environ, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_PATIENCE, check=False,
        )  # fmt: skip

    def _start(self, told: tuple[str, str], url: str) -> None:
        command, expected = told
        port = _free_port()
        started = _BackgroundCommand(f"{self._with_addresses(command)} --port {port}", self._folder, self._environ)
        self._background.append(started)
        self._addresses[url] = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + _PATIENCE
        while not is_printed(expected, started.printed()):
            assert started.goes_on(), f"$ {command}\nhas ended:\n{started.printed()}"
            assert time.monotonic() < deadline, f"$ {command}\nprints\n{started.printed()}\nand not\n{expected}"
            time.sleep(0.05)

    def _with_addresses(self, command: str) -> str:
        for address, real in self._addresses.items():
            command = command.replace(address, real)
        return command


class _BackgroundCommand:
    """A command that keeps running, in a process group of its own."""

    def __init__(self, command: str, folder: Path, environ: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"], cwd=folder, env=environ, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def printed(self) -> str:
        return "".join(self._lines)

    def goes_on(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        for each in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, each)
                self._process.wait(20)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self._process.wait()
        self._reader.join(20)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            self._lines.extend(lines)


def is_printed(expected: str, printed: str) -> bool:
    """Return whether the lines are among those printed, in order: `…` is any text, a number any number.

    A line that is only `…` stands for any lines. White space is ignored: a terminal breaks lines. `pass` also matches
    `pass?`: where a machine stalls, its figures drift, and no number of prompts makes them certain.
    """
    shape = re.sub(r"\b(?=[0-9a-f]*\d)[0-9a-f]{7,}\b|\d+(?:[.,:]\d+)*", "0", expected)
    words = (
        [r"pass\??" if word == "pass" else re.escape(word) for word in piece.split()] for piece in shape.split("…")
    )
    pieces = [r"\s+".join(each) for each in words]
    pattern = r"[\s\S]*?".join(pieces).replace("0", r"[0-9a-f]+(?:[.,:]\d+)*")
    return re.search(pattern, printed) is not None


def environ_of(folder: Path) -> dict[str, str]:
    """Return the environment of a shell with the virtual environment active, for a user without settings."""
    programs = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    ours = ("COMFY", "GIT", "PYTEST", "CI", "COV")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    terminal = {"COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"}
    git = {f"GIT_{who}_{what}": "ada@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    outside = str(folder.parent)
    patience = {"PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": "-p tests.docs.patience"}
    return clean | terminal | git | patience | {"PATH": programs, "HOME": outside, "GIT_CEILING_DIRECTORIES": outside}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
