"""A ComfyUI process belongs to its starter: it is ready when started, and gone, with its children, when stopped."""

from __future__ import annotations

import atexit
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from pytest_comfyload.errors import GeneratorError, ServerError, UsageError
from pytest_comfyload.launch.readiness import wait_until_ready
from pytest_comfyload.redaction import hide_flags, hide_named

__all__ = ["ComfyInstall", "ComfyProcess", "tail_of"]

HOST = "127.0.0.1"
# Below the ephemeral ports of Linux and macOS: ComfyUI binds seconds after it was given its port, and until then no
# outgoing connection can take it.
PORTS = range(20000, 32768)
# Lines, and bytes in which they are looked for.
LOG_TAIL, TAIL_BYTES = 20, 64 << 10


@dataclass(frozen=True, slots=True)
class ComfyInstall:
    """An installed ComfyUI: the Python it runs in, its main.py, and the arguments and environment it always gets."""

    python: Path
    main: Path
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


class ComfyProcess:
    """One ComfyUI on a loopback port of its own, for a `with` statement or for `start` and `stop`.

    `base_directory`, made where it is not there, holds its models, outputs, custom nodes and database, and is its
    working directory; `log` gets all that it prints. The port, and so `url`, stays the same when it is started again.
    It leads a process group, so that a Ctrl-C meant for us does not reach it, and ends with our interpreter, even after
    a SIGKILL of ours.
    """

    def __init__(
        self, install: ComfyInstall, base_directory: Path, *, log: Path, timeout: float = 120, port: int | None = None
    ) -> None:
        hide_flags(install.args)
        hide_named(install.env)
        self._install = install
        self._base_directory = base_directory
        self.log = log
        self._timeout = timeout
        self._port = free_port() if port is None else port
        # Seconds of the last start, from the process to the executed prompt.
        self.start_time = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._port}"

    @property
    def pid(self) -> int:
        """The process id, from `start` to `stop`; UsageError outside."""
        return self._running().pid

    def start(self, check_wanted: Callable[[], None] = lambda: None) -> Self:
        """Start the process and wait, `timeout` seconds in all, until a prompt has executed.

        `check_wanted` is called while it waits, and may raise to end the wait and the process.
        Raises UsageError where the installation lacks a file or the process runs already, ServerError where it exited
        early or failed the prompt, ServerTimeout where it was too slow, the last two with the end of the log.
        """

        def check() -> None:
            check_wanted()
            self._check_alive()

        if self._process is not None:
            raise UsageError(f"ComfyUI was started already (pid {self.pid}, {self.url}); stop() it first")
        begun = time.monotonic()
        self._process = self._spawn()
        self._guard = _spawn_guard(self._process.pid)
        atexit.register(self.kill)
        try:
            wait_until_ready(self.url, timeout=self._timeout, check_alive=check)
        except ServerError as error:
            self.kill()
            raise type(error)(f"{error}\n{tail_of(self.log)}") from None
        except BaseException:
            self.kill()
            raise
        self.start_time = time.monotonic() - begun
        return self

    def death(self) -> str | None:
        """Return how the process ended that was started and not stopped; None where it lives, or there is none."""
        code = None if self._process is None else self._process.poll()
        if code is None:
            return None
        return f"was killed by signal {-code}" if code < 0 else f"exited with status {code}"

    def stop(self, grace: float = 10) -> None:
        """End the process group: ask with SIGTERM, after `grace` seconds kill. Does nothing where there is none."""
        if self._process is not None:
            self._signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace)
        self.kill()

    def kill(self) -> None:
        """End the process group at once, as a crash would. Does nothing where there is none."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._release_guard()
            self._process.wait()
            self._process = None
            atexit.unregister(self.kill)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _spawn(self) -> subprocess.Popen[bytes]:
        if not hasattr(os, "killpg"):
            raise UsageError("ComfyUI cannot be launched on Windows; start it yourself and give its --comfyui-url")
        # Absolute, since it runs in its base directory; not resolved, since a venv is known by its link to Python.
        python, main, base = (
            path.absolute() for path in (self._install.python, self._install.main, self._base_directory)
        )
        for file in (python, main):
            if not file.exists():
                raise UsageError(f"ComfyUI cannot be started: {file} does not exist")
        for folder in ("custom_nodes", "user"):  # without them ComfyUI, or its database, does not start
            (base / folder).mkdir(parents=True, exist_ok=True)
        where = ["--listen", HOST, "--port", str(self._port), "--base-directory", str(base)]
        # By default in the installation, which servers and users share.
        database = ["--database-url", f"sqlite:///{base / 'user' / 'comfyui.db'}"]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [python, main, *where, *database, *self._install.args],
                # Custom nodes write to relative paths.
                cwd=base,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self._install.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _release_guard(self) -> None:
        """End the guard while the group's id is still ours: it must not signal a later process of that id."""
        if self._guard is not None:
            self._guard.kill()
            self._guard.wait()
            assert self._guard.stdin is not None
            self._guard.stdin.close()
            self._guard = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise UsageError("ComfyUI is not started; call start() first")
        return self._process

    def _check_alive(self) -> None:
        code = self._running().poll()
        if code is not None:
            raise ServerError(f"ComfyUI exited with status {code} before it was ready")

    def _signal(self, number: signal.Signals) -> None:
        # The group outlives its leader while a child of it runs; after them it is missing, or on macOS forbidden.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._running().pid, number)


def tail_of(log: Path) -> str:
    """Return the last lines of a log, below a line that names it."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()[-LOG_TAIL:]
    except OSError as error:
        return f"{log} cannot be read: {error.strerror or error}"
    return "\n".join([f"the end of {log}:", *lines]) if lines else f"{log} is empty"


def _spawn_guard(group: int) -> subprocess.Popen[bytes]:
    # Isolated and without site packages: it starts in some 15 ms and imports nothing that a folder or variable adds.
    command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py")), str(group)]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def free_port() -> int:
    """A loopback port that nothing listens on. Raises GeneratorError where a hundred were taken."""
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise GeneratorError(f"no free port on {HOST} among 100 of {PORTS.start}-{PORTS.stop - 1}")
