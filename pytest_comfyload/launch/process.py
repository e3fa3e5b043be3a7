"""A ComfyUI process belongs to its starter: it is ready when started, and gone, with its children, when stopped."""

from __future__ import annotations

import atexit
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from pytest_comfyload.errors import GeneratorError, ServerError, UsageError
from pytest_comfyload.launch.readiness import wait_until_ready
from pytest_comfyload.redaction import hide_flags, hide_named

__all__ = ["ComfyInstall", "ComfyProcess"]

HOST = "127.0.0.1"
# Below the ephemeral ports of Linux and macOS: ComfyUI binds seconds after it was given its port, and until then no
# outgoing connection of anybody can take it.
PORTS = range(20000, 32768)
LOG_TAIL = 20


@dataclass(frozen=True, slots=True)
class ComfyInstall:
    """An installed ComfyUI: the Python it runs in, its main.py, and the arguments and environment it always gets."""

    python: Path
    main: Path
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


class ComfyProcess:
    """One ComfyUI on a loopback port of its own, for a `with` statement or for `start` and `stop`.

    `base_directory`, made where it is not there, holds its models, outputs and custom nodes; `log` gets all that it
    prints. The port, and so `url`, stays the same when it is started again. It leads a process group, so that a Ctrl-C
    meant for us does not reach it, and ends with our interpreter, even after a SIGKILL of ours.
    """

    def __init__(self, install: ComfyInstall, base_directory: Path, *, log: Path, timeout: float = 120) -> None:
        hide_flags(install.args)
        hide_named(install.env)
        self._install = install
        self._base_directory = base_directory
        self._log = log
        self._timeout = timeout
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._port}"

    @property
    def pid(self) -> int:
        """The process id, from `start` to `stop`; UsageError outside."""
        return self._running().pid

    def start(self) -> Self:
        """Start the process and wait, `timeout` seconds in all, until a prompt has executed.

        Raises UsageError where the installation lacks a file or the process runs already, ServerError where it exited
        early or failed the prompt, ServerTimeout where it was too slow, the last two with the end of the log.
        """
        if self._process is not None:
            raise UsageError(f"ComfyUI was started already (pid {self.pid}, {self.url}); stop() it first")
        self._process = self._spawn()
        self._guard = _spawn_guard(self._process.pid)
        atexit.register(self.kill)
        try:
            wait_until_ready(self.url, timeout=self._timeout, check_alive=self._check_alive)
        except ServerError as error:
            self.kill()
            raise type(error)(f"{error}\n{self._log_tail()}") from None
        except BaseException:
            self.kill()
            raise
        return self

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
        # Absolute, since it runs in the folder of main.py; not resolved, since a venv is known by its link to Python.
        python, main, base = (
            path.absolute() for path in (self._install.python, self._install.main, self._base_directory)
        )
        for file in (python, main):
            if not file.exists():
                raise UsageError(f"no ComfyUI can be started: {file} does not exist")
        (base / "custom_nodes").mkdir(parents=True, exist_ok=True)  # without it ComfyUI does not start
        where = ["--listen", HOST, "--port", str(self._port), "--base-directory", str(base)]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [python, main, *where, *self._install.args],
                cwd=main.parent,
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

    def _log_tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-LOG_TAIL:]
        return "\n".join([f"the end of {self._log}:", *lines]) if lines else f"{self._log} is empty"


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
