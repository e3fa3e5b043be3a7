"""ComfyUI processes: ready once started, and terminated together with their children once stopped."""

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
# Below the ephemeral ports of Linux and macOS: ComfyUI binds its port seconds after it was chosen, and no outgoing
# connection can take it in the meantime.
PORTS = range(20000, 32768)
# Lines, and the bytes at the end of the log in which they are looked for.
LOG_TAIL, TAIL_BYTES = 20, 64 << 10


@dataclass(frozen=True, slots=True)
class ComfyInstall:
    """An installed ComfyUI: the Python it runs in, its main.py, and the arguments and environment it always gets."""

    python: Path
    main: Path
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


class ComfyProcess:
    """One ComfyUI on its own loopback port; use it as a context manager, or call `start` and `stop`.

    `base_directory`, created if missing, contains its models, outputs, custom nodes and database, and is its working
    directory. All its output goes to `log`. The port, and so `url`, stays the same when it is started again. It leads
    its own process group, so that a Ctrl-C meant for us does not reach it, and it is terminated with our interpreter,
    even if we are killed by SIGKILL.
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
        # Duration of the last start in seconds, from spawning the process to the executed prompt.
        self.start_time = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._port}"

    @property
    def pid(self) -> int:
        """Process id. Raises: UsageError before `start` and after `stop`."""
        return self._running().pid

    def start(self, check_wanted: Callable[[], None] = lambda: None) -> Self:
        """Start the process and wait until it has executed a prompt, for at most `timeout` seconds.

        `check_wanted` is called while waiting, and may raise to abort the start, which kills the process.

        Raises:
            UsageError: The installation lacks a file, or the process is already running.
            ServerError: The process exited early or failed the prompt; the message includes the end of the log.
            ServerTimeout: The process was too slow; the message includes the end of the log.
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
        """Return how the started process exited or was killed; None while it is running or not started."""
        code = None if self._process is None else self._process.poll()
        if code is None:
            return None
        return f"was killed by signal {-code}" if code < 0 else f"exited with status {code}"

    def stop(self, grace: float = 10) -> None:
        """Terminate the process group by SIGTERM, after `grace` seconds by SIGKILL; a no-op if it is not started."""
        if self._process is not None:
            self._signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace)
        self.kill()

    def kill(self) -> None:
        """Kill the process group at once, as a crash would; a no-op if it is not started."""
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
        # Absolute, since it runs in its base directory; not resolved, since a venv is recognized by its link to Python.
        python, main, base = (
            path.absolute() for path in (self._install.python, self._install.main, self._base_directory)
        )
        for file in (python, main):
            if not file.exists():
                raise UsageError(f"ComfyUI cannot be started: {file} does not exist")
        for folder in ("custom_nodes", "user"):  # without them ComfyUI, or its database, does not start
            (base / folder).mkdir(parents=True, exist_ok=True)
        where = ["--listen", HOST, "--port", str(self._port), "--base-directory", str(base)]
        # The default location is in the installation, which servers and users share.
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
        """Stop the guard while the group id is still ours: it must not signal a later group with the same id."""
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
        # The group exists while its leader or a child runs; after that, its id is unknown or, on macOS, forbidden.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._running().pid, number)


def tail_of(log: Path) -> str:
    """Return the last lines of a log, after a line with its name."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()[-LOG_TAIL:]
    except OSError as error:
        return f"{log} cannot be read: {error.strerror or error}"
    return "\n".join([f"the end of {log}:", *lines]) if lines else f"{log} is empty"


def _spawn_guard(group: int) -> subprocess.Popen[bytes]:
    # Isolated and without site packages: it starts in about 15 ms, and PYTHONPATH and the user's packages are ignored.
    command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py")), str(group)]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def free_port() -> int:
    """Return a loopback port that is not in use. Raises: GeneratorError if a hundred ports are in use."""
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise GeneratorError(f"no free port on {HOST} among 100 of {PORTS.start}-{PORTS.stop - 1}")
